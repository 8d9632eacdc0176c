"""Stubs for our models in timm's registry, each with timm's configuration of its weights."""

from __future__ import annotations

import logging
import re
import sys
import threading
import types
from typing import Any

from plm_core.hookspecs import Input, Model, Pretrained
from plm_core.registry import Entry, registry_or_call
from plm_core.utils.references import shipped_file
from plm_core.utils.text import describe

_log = logging.getLogger("plm_core")


_lock = threading.Lock()


def register() -> None:
    """Put a stub for each declared model into timm's registry. Do nothing while timm is not imported."""
    timm_models = sys.modules.get("timm.models")
    if timm_models is None or getattr(timm_models.__spec__, "_initializing", False):
        return
    plugins = registry_or_call(register)  # None while it is being loaded, and then it calls us
    if plugins is None:
        return
    with _lock:  # two threads that register the same name would overwrite one another, of which timm warns
        for name, entry in plugins.all(Model).items():
            try:
                why = _register_entry(timm_models, entry)
            except KeyboardInterrupt:
                raise
            except BaseException as e:  # what one plug-in declares must not break ``import timm`` for everyone
                why = describe(e)
            if why and name not in plugins.left_out:
                plugins.left_out[name] = why
                _log.warning("model %r of %s is left out of timm's registry: %s", name, entry.distribution, why)


def _register_entry(timm_models: Any, entry: Entry[Model]) -> str:
    """Register a model unless it is registered. Return why it cannot be, or an empty string."""
    name = entry.declaration.name
    if timm_models.is_model(name):
        owner = timm_models.model_entrypoint(name)
        if not hasattr(owner, "plm_model"):
            return f"{owner.__module__} owns the name"
        if owner.plm_model == entry.declaration:
            return ""
    _register_stub(timm_models, entry.declaration, entry.distribution)
    return ""


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
