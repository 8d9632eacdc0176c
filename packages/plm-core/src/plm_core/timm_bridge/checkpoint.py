"""The filter for checkpoints that timm loads into our models: from any layout to the model's own keys, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from plm_core.hookspecs import Model, Pretrained
from plm_core.layouts import State
from plm_core.registry import registry
from plm_core.utils.references import shipped_file
from plm_core.utils.text import as_tuple
from plm_core.weights.checks import check_kinds, check_state
from plm_core.weights.loading import resampled
from plm_core.weights.mapping import announce_rest, compare, mismatch, to_native
from plm_core.weights.pickles import unwrap


def timm_filter(state: State, model: nn.Module, weights: Pretrained | None = None) -> dict[str, Tensor]:
    """Map a checkpoint of any layout to the model's own keys, strictly.

    This is the ``pretrained_filter_fn`` of timm's ``build_model_with_cfg``. timm is not strict when it is asked for
    another number of classes than the checkpoint has. So the check is made here, against the head of the checkpoint:
    every tensor must be present, in the shape that follows from the weights' own configuration.

    Args:
        state: The checkpoint.
        model: The model, with timm's configuration of the weights as ``pretrained_cfg``.
        weights: Our declaration of the weights. None when the user chose others, whose layout is then recognised.

    Raises:
        WeightsMismatch: A tensor is missing, unexpected or of another shape. timm then loads nothing.
    """
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    state = check_state(unwrap(dict(state), "the checkpoint"), "the checkpoint")
    mapped, report = to_native(model, state, weights.layout if weights else None)
    untrained = weights.untrained if weights else ()
    if not cfg.get("num_classes"):  # an encoder without classes, as pretrainings leave it, gets a new classifier
        untrained = (*untrained, *(f"{name}." for name in as_tuple(cfg.get("classifier"))))
    own = model.state_dict()
    native = {key: tuple(value.shape) for key, value in own.items()} | _native_head(cfg, model, mapped)
    shapes = {key: shape for key, shape in native.items() if shape is not None and not key.startswith(untrained)}
    mapped = {key: value for key, value in mapped.items() if not key.startswith(untrained)}
    strict = compare(report.layout, mapped, report.unmapped, shapes)
    if strict.mismatched:
        mapped, strict = resampled(model, mapped, strict, shapes)
    if not strict.ok:
        raise mismatch(strict, str(cfg.get("architecture", type(model).__name__)), model, state)
    check_kinds(mapped, own)
    announce_rest(report, str(cfg.get("architecture", type(model).__name__)))
    return mapped | {key: value for key, value in own.items() if key.startswith(untrained)}


def pretrained_entry(cfg: Mapping[str, Any]) -> Pretrained | None:
    """Return our declaration of the weights that timm is about to load; None when the user chose another source."""
    model = registry().all(Model).get(cfg.get("architecture", ""))
    entries = model.declaration.pretrained if model else ()
    entry = next((entry for entry in entries if entry.tag == cfg.get("tag")), None)
    if entry is None or cfg.get("source") or cfg.get("state_dict"):
        return None
    if entry.repo is None:
        return entry if cfg.get("file") == str(shipped_file(entry.file)) else None
    return entry if cfg.get("hf_hub_id", "").partition("@")[0] == entry.repo and not cfg.get("file") else None


def _native_head(cfg: Mapping[str, Any], model: nn.Module, mapped: State) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes that follow from the weights' configuration, whatever the model's own classes and channels.

    The shape is None for a bias that is not in the weights: a classifier that the model replaces may have had none.
    """
    own, shapes = model.state_dict(), dict[str, tuple[int, ...] | None]()
    own_classes: int = getattr(model, "num_classes", 0)
    classes, channels = cfg.get("num_classes", 0), cfg.get("input_size", (3,))[0]
    for name in as_tuple(cfg.get("classifier")) if classes else ():
        for key in (f"{name}.weight", f"{name}.bias"):
            if key in own and key.endswith(".bias") and key not in mapped and own_classes != classes:
                shapes[key] = None
            elif key in own:
                rows, *rest = own[key].shape
                shapes[key] = (_native_rows(rows, own_classes, classes), *rest)
            elif own_classes:  # a classifier without a bias, or a variant of the model whose classifier has other names
                continue
            elif key in mapped:
                shapes[key] = (classes, *mapped[key].shape[1:])
            elif key.endswith(".weight"):
                shapes[key] = (classes,)  # the file has no classifier at all: reported as missing
    for name in as_tuple(cfg.get("first_conv")):
        key = f"{name}.weight"
        if key in own:
            shapes[key] = (own[key].shape[0], channels, *own[key].shape[2:])
    return shapes


def _native_rows(rows: int, own_classes: int, classes: int) -> int:
    """Return the outputs that a layer with ``rows`` outputs for the model's own classes has for the weights' classes.

    A detector also has the background as a class, and may have several outputs per class, such as those of its boxes.
    """
    background = own_classes > 0 and rows != own_classes and rows % (own_classes + 1) == 0
    return rows // (own_classes + 1) * (classes + 1) if background else classes
