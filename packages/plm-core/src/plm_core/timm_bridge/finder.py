"""The registration of our models as soon as timm has been imported, by whichever thread and in whichever order.

While Python imports a module, the module's spec says so by its attribute ``_initializing``. The spec of timm is
watched: when the import is over, our models are registered, before any thread that waits for timm gets it. An import of
timm that begins after that of plm_core is noticed by a finder on ``sys.meta_path``, when timm imports its own
``timm.models``. One that began before is noticed by `install`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from plm_core.timm_bridge.entrypoints import register


class WatchedSpec(ModuleSpec):
    """The spec of timm while timm is being imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_initializing" and not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            register()


class TimmFinder:  # not derived from importlib.abc.MetaPathFinder: importing that module takes 3 ms
    """A finder that finds nothing. It is told when timm is being imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Watch timm if it is about to import its models, and leave the search to the other finders."""
        if fullname == "timm.models":
            _watch()
        return None


def _watch() -> None:
    spec = getattr(sys.modules.get("timm"), "__spec__", None)
    if type(spec) is ModuleSpec and _is_importing(spec):
        spec.__class__ = WatchedSpec
        if not _is_importing(spec):  # the import ended meanwhile, in another thread
            spec.__class__ = ModuleSpec


def _is_importing(spec: ModuleSpec) -> bool:
    return getattr(spec, "_initializing", False)


def _is_ours(finder: object) -> bool:
    # by name: after a reload of this module an old copy is an instance of another class
    return type(finder).__name__ == TimmFinder.__name__ and type(finder).__module__ == __name__


def install() -> None:
    """Register our models now if timm is imported already, or as soon as it is."""
    sys.meta_path[:] = [TimmFinder(), *(finder for finder in sys.meta_path if not _is_ours(finder))]
    _watch()
    register()
