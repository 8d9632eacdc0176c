"""The construction of a declared model by timm's own machinery, with our strict checkpoint filter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import nn

from plm_core.hookspecs import Model
from plm_core.hub import INDEX_FILE, WEIGHTS_FILE, one_line
from plm_core.registry import registry
from plm_core.timm_bridge.checkpoint import pretrained_entry, timm_filter
from plm_core.utils.licenses import announce_license, announce_repo
from plm_core.utils.references import resolve
from plm_core.utils.requirements import check_needs
from plm_core.weights.loading import load


def build(model: Model, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a declared model. timm's entry points for our models call this.

    Raises:
        MissingDependency: A requirement in the declaration's ``needs`` is not installed.
        WeightsError: The weights cannot be obtained or do not fit.
    """
    check_needs(f"model {model.name!r}", model.needs)
    kwargs = _with_tuples(kwargs, model.config)
    if isinstance(size := kwargs.get("img_size"), tuple | list) and len(size) == 3:
        kwargs["input_size"] = kwargs.pop("img_size")  # a clip; timm's img_size is a height and a width
    source, weights, in_parts = model.name, None, False
    if pretrained:
        cfg = resolve_pretrained_cfg(model.name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        source = cfg.file or f"{cfg.hf_hub_filename or WEIGHTS_FILE} of {cfg.hf_hub_id}"
        weights = pretrained_entry(cfg.to_dict())
        in_parts = weights is not None and weights.file == INDEX_FILE  # timm reads one file only
        if not in_parts:
            announce_license(model, weights)
        if cfg.source == "hf-hub":  # the user named a repository, which may be one that we declare
            announce_repo((cfg.hf_hub_id or "").partition("@")[0], registry().declared(Model))
    with one_line(f"cannot get {source}"):
        built: nn.Module = build_model_with_cfg(
            resolve(model.builder),
            model.name,
            pretrained and not in_parts,
            pretrained_filter_fn=partial(timm_filter, weights=weights),
            feature_cfg={"feature_cls": "getter", "out_indices": model.out_indices},
            **{**model.config, **kwargs},
        )
        if in_parts and weights is not None:
            load(built, f"{model.name}.{weights.tag}", weights.layout)
    return built


def _with_tuples(kwargs: dict[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords in which the lists of a config.json, which has no tuples, are tuples again.

    Keywords that are declared as lists stay lists.
    """
    read = kwargs.get("pretrained_model_args", {})  # what timm has read from a config.json
    return {
        key: _as_tuples(value) if key in read and not isinstance(declared.get(key), list) else value
        for key, value in kwargs.items()
    }


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
