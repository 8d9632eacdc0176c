"""Our models in timm's registry, without importing timm before the user does.

timm has no entry-point discovery. So ``import plm_core`` (and ``import hiera`` ...) puts a finder for exactly ``timm``
on ``sys.meta_path``; when timm is imported, its loader runs and then our stubs are registered. If timm is there
already, they are registered at once. ``register`` is idempotent and ``plm_core.create_model`` calls it too, which
covers a hub that was imported while timm was half imported.
"""

from __future__ import annotations

import importlib.machinery
import logging
import re
import sys
import threading
import types
from collections.abc import Callable, Sequence
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

from plm_core.hookspecs import Input, Model, Pretrained
from plm_core.registry import Registry, is_loading, registry

_log = logging.getLogger("plm_core")
_guard = threading.local()
_announced: set[str] = set()
NON_COMMERCIAL = re.compile(r"(^|-)nc($|-)", re.IGNORECASE)


class TimmFinder:  # importlib.abc.MetaPathFinder in all but name: that module takes 3 ms to import
    """Finds ``timm`` by the other finders and has our models registered once it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Spec of timm with its loader's ``exec_module`` wrapped; None for every other module."""
        if fullname != "timm" or getattr(_guard, "busy", False):
            return None
        _guard.busy = True  # another finder may ask sys.meta_path again, and so come back to this one
        try:
            others = (finder for finder in sys.meta_path if not _is_ours(finder))
            specs = (finder.find_spec(fullname, path, target) for finder in others if hasattr(finder, "find_spec"))
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            _guard.busy = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_execute_then_register, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _is_ours(finder: object) -> bool:
    # by name: after a reload of this module an old copy is an instance of another class
    return type(finder).__name__ == TimmFinder.__name__ and type(finder).__module__ == __name__


def _execute_then_register(execute: Callable[[types.ModuleType], None], module: types.ModuleType) -> None:
    execute(module)
    register()


def install() -> None:
    """Make every later import of timm register our models; registers them now if timm is imported already."""
    sys.meta_path[:] = [TimmFinder(), *(finder for finder in sys.meta_path if not _is_ours(finder))]
    register()


def register() -> None:
    """Put a stub for each model of the registry into timm's registry; does nothing while timm is not imported."""
    timm_models = sys.modules.get("timm.models")
    if timm_models is None or not hasattr(timm_models, "generate_default_cfgs") or is_loading():
        return
    hub = registry()
    for name, entry in hub.all(Model).items():
        if timm_models.is_model(name):
            owner = timm_models.model_entrypoint(name)
            if getattr(owner, "plm_model", None) == entry.declaration:
                continue
            if not hasattr(owner, "plm_model"):
                _leave_out(hub, name, entry.distribution, f"{owner.__module__} owns the name")
                continue
        try:
            _register_stub(timm_models, entry.declaration, entry.distribution)
        except Exception as e:  # what one plug-in declares must not break ``import timm`` for everyone
            _leave_out(hub, name, entry.distribution, f"{type(e).__name__}: {e}")


def _leave_out(hub: Registry, name: str, distribution: str, why: str) -> None:
    if name not in hub.left_out:
        hub.left_out[name] = why
        _log.warning("model %r of %s is left out of timm's registry: %s", name, distribution, why)


def _register_stub(timm_models: Any, model: Model, distribution: str) -> None:
    # timm reads default_cfgs from the module that the entry point names, and files the module under the last part of
    # its name: one module per distribution, under a name that no module of timm has.
    module_name = f"plm_core.registered.plm_{re.sub(r'[^A-Za-z0-9]', '_', distribution)}"
    module = sys.modules.setdefault(module_name, types.ModuleType(module_name, f"timm entry points of {distribution}."))
    configs = {f"{model.name}.{p.tag}": _pretrained_cfg(model, p, timm_models) for p in model.pretrained}
    configs = configs or {model.name: _pretrained_cfg(model, None, timm_models)}
    module.__dict__.setdefault("default_cfgs", {}).update(timm_models.generate_default_cfgs(configs))

    def entry_point(pretrained: bool = False, **kwargs: Any) -> Any:
        from plm_core.models import build

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


def shipped_file(reference: str) -> Path:
    """Path of ``"package:path"``, a file that is shipped inside a distribution."""
    from importlib import resources  # brings zipfile and tempfile; the light commands do without

    package, _, path = reference.partition(":")
    return Path(str(resources.files(package).joinpath(path)))


def announce_license(model: Model, entry: Pretrained | None) -> None:
    """Say once per set of weights, before any download, that they are not for commercial use."""
    if entry and entry.repo and NON_COMMERCIAL.search(entry.license) and entry.repo not in _announced:
        _announced.add(entry.repo)
        _log.warning(
            "weights %s.%s (%s) are for non-commercial use: %s", model.name, entry.tag, entry.repo, entry.license
        )


def announce_repo(repo: str) -> None:
    """`announce_license` for a repository that is one of our declared ones."""
    for entry in registry().all(Model).values():
        for weights in entry.declaration.pretrained:
            if weights.repo == repo:
                announce_license(entry.declaration, weights)


def timm_names() -> set[str]:
    """Names that timm itself registers, deprecated ones too, read from its source: importing timm takes seconds."""
    spec = util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return set()
    current = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
    deprecated = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)\}\)", re.MULTILINE | re.DOTALL)
    names: set[str] = set()
    for file in Path(spec.submodule_search_locations[0], "models").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        names.update(current.findall(source))
        for table in deprecated.findall(source):
            names.update(re.findall(r"['\"](\w+)['\"]\s*:", table))
    return names
