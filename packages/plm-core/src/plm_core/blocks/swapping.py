"""Swapping the class of a module for one with a mixin, so that copies and pickles compute with their own weights."""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

from torch import nn


class Swapped:
    """The base of all mixins for `swap`; a swapped module has a class built from the mixin and its own class."""

    unpatched: type[nn.Module]
    mixin: type[Swapped]
    own: type[nn.Module]
    """The swapped class itself, by which it is told from classes that others derive from it."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Name the original class and the mixin in copies and pickles, since no module holds the swapped class."""
        return _new, (self.unpatched, self.mixin), self.__dict__


_CLASSES: dict[tuple[type[nn.Module], type[Swapped]], type[nn.Module]] = {}
_UNDERIVED: dict[type[nn.Module], type[nn.Module]] = {}


def _swapped_class(cls: type[nn.Module], mixin: type[Swapped]) -> type[nn.Module]:
    if (cls, mixin) not in _CLASSES:
        names = tuple(inspect.signature(cls.forward).parameters)[2:]  # without self and x
        body = {"unpatched": cls, "mixin": mixin, "context_names": names}
        body |= {"__module__": cls.__module__, "__doc__": cls.__doc__}
        swapped: Any = type(cls.__name__, (mixin, cls), body)
        swapped.own = swapped
        _CLASSES[cls, mixin] = swapped
    return _CLASSES[cls, mixin]


def _unswapped_class(cls: Any) -> type[nn.Module]:
    """Return a class without the mixin of `swap`, also where another library derived its own class from a swapped one.

    FSDP2 and torch's parametrizations make such classes of the modules that they wrap.
    """
    if not issubclass(cls, Swapped):
        unswapped: type[nn.Module] = cls
        return unswapped
    if cls.own is cls:
        return cls.unpatched
    if cls not in _UNDERIVED:
        body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        inherited = [inspect.unwrap(base.forward) for base in cls.__bases__ if hasattr(base, "forward")]
        if inspect.unwrap(cls.forward) in inherited:  # transformers wraps it again in each derived class
            body.pop("forward", None)
        _UNDERIVED[cls] = type(cls.__name__, tuple(map(_unswapped_class, cls.__bases__)), body)
    return _UNDERIVED[cls]


def _new(cls: type[nn.Module], mixin: type[Swapped]) -> nn.Module:
    swapped = _swapped_class(cls, mixin)
    return swapped.__new__(swapped)


def swap(module: nn.Module, mixin: type[Swapped]) -> None:
    """Put the methods of a mixin before those of the module's class; `swap_back` undoes it.

    The class changes and not the instance. So state-dict keys stay, and a copy or pickle computes with its own weights.
    """
    if not isinstance(module, mixin):
        _set_class(module, _swapped_class(original_class(module), mixin))


def swap_back(module: nn.Module) -> None:
    """Restore the original class of a module."""
    _set_class(module, original_class(module))


def _set_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change the class, and let methods that accelerate keeps on the instance be those of the new class."""
    kept = [name for name in ("forward", "_old_forward") if is_own_method(module, module.__dict__.get(name))]
    module.__class__ = cls
    for name in kept:
        module.__dict__[name] = MethodType(cls.forward, module)


def is_own_method(module: nn.Module, method: object) -> bool:
    """Return whether ``method`` is the forward of a module's class, bound to the module."""
    return isinstance(method, MethodType) and method.__self__ is module and method.__func__ is type(module).forward


def original_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module has without any `swap`."""
    return _unswapped_class(type(module))


def forward_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that defines the forward of a module without any `swap`.

    It differs from `original_class` for classes derived without a forward of their own, such as those of FSDP2.
    """
    return next(cls for cls in original_class(module).__mro__ if "forward" in vars(cls))
