"""The class of a module swapped for one made here, so that copies and pickles keep computing with their own weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


class Swapped:
    """Mixed into the class of a module that was made here from the module's own; see `swap`."""

    unpatched: type[nn.Module]
    mixin: type[Swapped]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies and pickles name the original class and the mixin, since this class was made here."""
        return _new, (self.unpatched, self.mixin), self.__dict__


_MADE: dict[tuple[type[nn.Module], type[Swapped]], type[nn.Module]] = {}


def _swapped_class(cls: type[nn.Module], mixin: type[Swapped]) -> type[nn.Module]:
    if (cls, mixin) not in _MADE:
        names = tuple(inspect.signature(cls.forward).parameters)[2:]  # without self and x
        body = {"unpatched": cls, "mixin": mixin, "context_names": names}
        body |= {"__module__": cls.__module__, "__doc__": cls.__doc__}
        _MADE[cls, mixin] = type(cls.__name__, (mixin, cls), body)
    return _MADE[cls, mixin]


def _new(cls: type[nn.Module], mixin: type[Swapped]) -> nn.Module:
    made = _swapped_class(cls, mixin)
    return made.__new__(made)


def swap(module: nn.Module, mixin: type[Swapped]) -> None:
    """Let the methods of a mixin come before those of the module's class, undone by `swap_back`.

    The class changes, not the instance: state dict keys stay, and copies and pickles compute with their own weights.
    """
    module.__class__ = _swapped_class(original_class(module), mixin)


def swap_back(module: nn.Module) -> None:
    """Give a module its own class back."""
    module.__class__ = original_class(module)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, swapped or not."""
    return module.unpatched if isinstance(module, Swapped) else type(module)
