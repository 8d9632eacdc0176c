"""Maps of all tokens from a model whose blocks merge: what ``forward_intermediates`` and ``features_only`` call."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from plm_core.blocks import Swapped, original_class
from tome.vit.blocks import is_merging, merging_blocks


class WithMaps(Swapped):
    """Mixed into a model whose blocks merge: what gives maps gives them of all tokens, in their places."""

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own; blocks give merged tokens back first."""
        own: Any = original_class(self)  # type: ignore[arg-type]
        return own.forward_intermediates(Unmerging(self), *args, **kwargs)  # type: ignore[arg-type]


class Unmerging:
    """A module as its own methods see it, but for blocks that are called with ``unmerge``.

    Neither a copy of the module nor a switch on it: compilers follow this, and other threads do not see it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _unmerging(getattr(self._module, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the module's class on this stand-in."""
        own: Any = original_class(self._module)
        return own.forward(self, *args, **kwargs)


def _unmerging(found: Any) -> Any:
    """What stands for an attribute in `Unmerging`; itself where nothing merges."""
    if not isinstance(found, nn.Module) or not merging_blocks(found):
        return found
    if is_merging(found):
        return partial(found, unmerge=True)
    if isinstance(found, nn.ModuleList | nn.Sequential):
        return [_unmerging(child) for child in found]
    return Unmerging(found)
