"""Feature maps of all tokens from a model that merges them.

``forward_intermediates`` and what builds on it, such as ``features_only``, must return whole maps.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from plm_core.blocks import Swapped, original_class
from tome.vit.blocks import is_merging, merging_blocks


class MapsMixin(Swapped):
    """A mixin for the class of a model whose blocks merge: its feature maps have all tokens, in their places."""

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's own method, with blocks that unmerge their tokens."""
        cls: Any = original_class(self)  # type: ignore[arg-type]
        return cls.forward_intermediates(UnmergingProxy(self), *args, **kwargs)  # type: ignore[arg-type]


class UnmergingProxy:
    """A proxy for a module that calls every merging block inside it with ``unmerge=True``.

    It is neither a copy of the module nor a flag on it, so torch.compile can trace it and other threads are not
    affected.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._module, name)
        if isinstance(attribute, MethodType) and attribute.__self__ is self._module and not self._is_model():
            return MethodType(attribute.__func__, self)  # such as forward_intermediates of a part that holds the blocks
        return _proxy(attribute)

    def _is_model(self) -> bool:
        """Return whether the module is the model itself, whose forward_intermediates calls its other methods."""
        return isinstance(self._module, MapsMixin)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the module's class on the proxy."""
        cls: Any = original_class(self._module)
        return cls.forward(self, *args, **kwargs)


def _proxy(attribute: Any) -> Any:
    """Return the proxy of an attribute, or the attribute itself if nothing inside it merges."""
    if not isinstance(attribute, nn.Module) or not merging_blocks(attribute):
        return attribute
    if is_merging(attribute):
        return partial(attribute, unmerge=True)
    if isinstance(attribute, (nn.ModuleList, nn.Sequential)):
        return [_proxy(child) for child in attribute]
    return UnmergingProxy(attribute)
