"""Checkpoints that timm loads into our models: any layout in, strict, the model's own keys out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from plm_core.hookspecs import Model, Pretrained
from plm_core.layouts import State
from plm_core.registry import registry
from plm_core.utils.references import shipped_file
from plm_core.utils.text import as_tuple
from plm_core.weights.files import check_state
from plm_core.weights.loading import resampled
from plm_core.weights.mapping import compare, mismatch, to_native


def timm_filter(state: State, model: nn.Module) -> dict[str, Tensor]:
    """``pretrained_filter_fn`` for timm's ``build_model_with_cfg``: any layout in, strict, the model's keys out.

    timm turns strictness off when it is asked for another number of classes, so the check is made here and against the
    native head: everything must be there, in the shape that the weights' own configuration says.

    Raises:
        WeightsMismatch: Something is missing, unexpected or of another shape; timm then loads nothing.
    """
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    entry = pretrained_entry(cfg)
    state = check_state(dict(state), "the checkpoint")
    mapped, report = to_native(model, state, entry.layout if entry else None)
    untrained = entry.untrained if entry else ()
    own = model.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()} | _native_head(cfg, own, mapped)
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith(untrained)}
    mapped = {key: value for key, value in mapped.items() if not key.startswith(untrained)}
    strict = compare(report.layout, mapped, report.unmapped, shapes)
    if strict.mismatched:
        mapped, strict = resampled(model, mapped, strict, shapes)
    if not strict.ok:
        raise mismatch(strict, str(cfg.get("architecture", type(model).__name__)), model, state)
    return mapped | {key: value for key, value in own.items() if key.startswith(untrained)}


def pretrained_entry(cfg: Mapping[str, Any]) -> Pretrained | None:
    """Our declaration of the weights that timm is about to load; None when the user has them come from elsewhere."""
    model = registry().all(Model).get(cfg.get("architecture", ""))
    entries = model.declaration.pretrained if model else ()
    entry = next((entry for entry in entries if entry.tag == cfg.get("tag")), None)
    if entry is None or cfg.get("source") or cfg.get("state_dict"):
        return None
    if entry.repo is None:
        return entry if cfg.get("file") == str(shipped_file(entry.file)) else None
    return entry if cfg.get("hf_hub_id", "").partition("@")[0] == entry.repo and not cfg.get("file") else None


def _native_head(cfg: Mapping[str, Any], own: State, mapped: State) -> dict[str, tuple[int, ...]]:
    """Shapes that the weights' configuration fixes, whatever classes and channels the model was asked for."""
    shapes: dict[str, tuple[int, ...]] = {}
    classes, channels = cfg.get("num_classes", 0), cfg.get("input_size", (3,))[0]
    for name in as_tuple(cfg.get("classifier")):
        for key in (f"{name}.weight", f"{name}.bias"):
            template = own.get(key, mapped.get(key))
            if classes and template is not None:
                shapes[key] = (classes, *template.shape[1:])
            elif classes and key.endswith(".weight"):  # a classifier may have no bias
                shapes[key] = (classes,)  # the file lacks it altogether: reported as missing
    for name in as_tuple(cfg.get("first_conv")):
        key = f"{name}.weight"
        if key in own:
            shapes[key] = (own[key].shape[0], channels, *own[key].shape[2:])
    return shapes
