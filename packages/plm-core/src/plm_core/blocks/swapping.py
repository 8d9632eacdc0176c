"""Swapping the class of a module for one with a mixin, so that copies and pickles compute with their own weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


class Swapped:
    """The base of all mixins for `swap`; a swapped module has a class built from the mixin and its own class."""

    unpatched: type[nn.Module]
    mixin: type[Swapped]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Name the original class and the mixin in copies and pickles, since no module holds the swapped class."""
        return _new, (self.unpatched, self.mixin), self.__dict__


_CLASSES: dict[tuple[type[nn.Module], type[Swapped]], type[nn.Module]] = {}


def _swapped_class(cls: type[nn.Module], mixin: type[Swapped]) -> type[nn.Module]:
    if (cls, mixin) not in _CLASSES:
        names = tuple(inspect.signature(cls.forward).parameters)[2:]  # without self and x
        body = {"unpatched": cls, "mixin": mixin, "context_names": names}
        body |= {"__module__": cls.__module__, "__doc__": cls.__doc__}
        _CLASSES[cls, mixin] = type(cls.__name__, (mixin, cls), body)
    return _CLASSES[cls, mixin]


def _new(cls: type[nn.Module], mixin: type[Swapped]) -> nn.Module:
    swapped = _swapped_class(cls, mixin)
    return swapped.__new__(swapped)


def swap(module: nn.Module, mixin: type[Swapped]) -> None:
    """Put the methods of a mixin before those of the module's class; `swap_back` undoes it.

    The class changes and not the instance. So state-dict keys stay, and a copy or pickle computes with its own weights.
    """
    module.__class__ = _swapped_class(original_class(module), mixin)


def swap_back(module: nn.Module) -> None:
    """Restore the original class of a module."""
    module.__class__ = original_class(module)


def original_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before any `swap`."""
    return module.unpatched if isinstance(module, Swapped) else type(module)
