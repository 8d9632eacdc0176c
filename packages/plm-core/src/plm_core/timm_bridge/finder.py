"""A finder on ``sys.meta_path`` that registers our models once timm has been imported."""

from __future__ import annotations

import importlib.machinery
import sys
import threading
import types
from collections.abc import Callable, Sequence
from functools import partial

from plm_core.timm_bridge.entrypoints import register

_guard = threading.local()


class TimmFinder:  # not derived from importlib.abc.MetaPathFinder: importing that module takes 3 ms
    """A finder that gets ``timm`` from the other finders and registers our models once timm has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of timm with its loader's ``exec_module`` wrapped, and None for every other module."""
        if fullname != "timm" or getattr(_guard, "busy", False):
            return None
        _guard.busy = True  # another finder may search sys.meta_path itself and so call this one again
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
    """Register our models now if timm is imported already, and at every later import of timm."""
    sys.meta_path[:] = [TimmFinder(), *(finder for finder in sys.meta_path if not _is_ours(finder))]
    register()
