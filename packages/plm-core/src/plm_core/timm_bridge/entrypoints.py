"""Stubs for our models in timm's registry, each with timm's configuration of its weights."""

from __future__ import annotations

import logging
import re
import sys
import types
from typing import Any

from plm_core.hookspecs import Input, Model, Pretrained
from plm_core.registry import call_when_loaded, registry
from plm_core.utils.references import shipped_file

_log = logging.getLogger("plm_core")


def register() -> None:
    """Put a stub for each declared model into timm's registry. Do nothing while timm is not imported."""
    timm_models = sys.modules.get("timm.models")
    if timm_models is None or not hasattr(timm_models, "generate_default_cfgs") or call_when_loaded(register):
        return
    for name, entry in registry().all(Model).items():
        if timm_models.is_model(name):
            owner = timm_models.model_entrypoint(name)
            if getattr(owner, "plm_model", None) == entry.declaration:
                continue
            if not hasattr(owner, "plm_model"):
                _leave_out(name, entry.distribution, f"{owner.__module__} owns the name")
                continue
        try:
            _register_stub(timm_models, entry.declaration, entry.distribution)
        except Exception as e:  # what one plug-in declares must not break ``import timm`` for everyone
            _leave_out(name, entry.distribution, f"{type(e).__name__}: {e}")


def _leave_out(name: str, distribution: str, why: str) -> None:
    left_out = registry().left_out
    if name not in left_out:
        left_out[name] = why
        _log.warning("model %r of %s is left out of timm's registry: %s", name, distribution, why)


def _register_stub(timm_models: Any, model: Model, distribution: str) -> None:
    # timm reads default_cfgs from the module that the entry point names, and lists the module under the last part of
    # its name. So each distribution gets a module of its own, whose last part is the name of no module of timm.
    module_name = f"plm_core.registered.plm_{re.sub(r'[^A-Za-z0-9]', '_', distribution)}"
    module = sys.modules.setdefault(module_name, types.ModuleType(module_name, f"timm entry points of {distribution}."))
    configs = {f"{model.name}.{p.tag}": _pretrained_cfg(model, p, timm_models) for p in model.pretrained}
    configs = configs or {model.name: _pretrained_cfg(model, None, timm_models)}
    module.__dict__.setdefault("default_cfgs", {}).update(timm_models.generate_default_cfgs(configs))

    def entry_point(pretrained: bool = False, **kwargs: Any) -> Any:
        from plm_core.timm_bridge.build import build

        return build(model, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = model.name
    entry_point.__module__ = module_name
    entry_point.__doc__ = f"{model.name} of {distribution}; see `plm info {model.name}`."
    entry_point.plm_model = model  # type: ignore[attr-defined]
    setattr(module, model.name, entry_point)
    timm_models.register_model(entry_point)


def _pretrained_cfg(model: Model, weights: Pretrained | None, timm_models: Any) -> dict[str, Any]:
    spec: Input = (weights and weights.input) or model.input
    classes = model.num_classes if weights is None or weights.num_classes is None else weights.num_classes
    cfg: dict[str, Any] = {
        "input_size": spec.size,
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct,
        "crop_mode": spec.crop_mode,
        "fixed_input_size": spec.fixed,
        "num_classes": classes,
        "classifier": model.classifier,
        "first_conv": model.first_conv,
    }
    if weights is not None:
        cfg |= {"license": weights.license.lower(), "description": weights.note or None, "label_names": weights.labels}
        if weights.repo is None:
            cfg["file"] = str(shipped_file(weights.file))
        else:
            cfg["hf_hub_id"] = weights.repo + (f"@{weights.revision}" if weights.revision else "")
            cfg["hf_hub_filename"] = weights.file
    return cfg
