"""The parameters of a packed layer, of which the plain weight exists only while somebody uses it."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from plm_core.packing.operators import unpack

WEIGHT = "weight"


class Parameters(dict[str, Any]):
    """The dict of parameters of a layer, without its plain weight as long as nobody asks for it.

    torch reads parameters from this dict for ``state_dict``, ``parameters``, ``to`` and ``load_state_dict``. Then the
    weight is made again of the packed one, and stays until `drop`. A weight that was given to somebody is remembered,
    so that a change of it is noticed.
    """

    packed: Tensor
    requires_grad: bool = True
    _given: Any = None
    _version: int = 0

    def drop(self) -> None:
        """Forget the plain weight. A packed weight of the same values must be set before."""
        weight = dict.__getitem__(self, WEIGHT)
        self.requires_grad = weight.requires_grad
        self._given, self._version = ref(weight), version(weight)
        dict.__setitem__(self, WEIGHT, None)

    def held(self) -> Tensor | None:
        """Return the plain weight if it is here, or if somebody has it and has changed it; None otherwise."""
        weight: Tensor | None = dict.__getitem__(self, WEIGHT)
        if weight is None and self._given is not None:
            given: Tensor | None = self._given()
            if given is not None and version(given) != self._version:
                dict.__setitem__(self, WEIGHT, given)
                return given
        return weight

    def _restore(self, name: str = WEIGHT) -> None:
        if name != WEIGHT or dict.get(self, WEIGHT, self) is not None:
            return
        weight = self._given() if self._given is not None else None
        if weight is None:
            with torch.inference_mode(False), torch.no_grad():
                weight = nn.Parameter(unpack(self.packed), requires_grad=self.requires_grad)
        dict.__setitem__(self, WEIGHT, weight)

    def __getitem__(self, name: str) -> Any:
        self._restore(name)
        return dict.__getitem__(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter, or the default."""
        self._restore(name)
        return dict.get(self, name, default)

    def items(self) -> Any:
        """Return the names and the parameters."""
        self._restore()
        return dict.items(self)

    def values(self) -> Any:
        """Return the parameters."""
        self._restore()
        return dict.values(self)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a parameter and return it."""
        self._restore(name)
        return dict.pop(self, name, *default)

    def copy(self) -> dict[str, Any]:
        """Return the parameters as an ordinary dict."""
        return dict(self.items())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (self.copy(),)


def version(weight: Tensor) -> int:
    """Return the number of changes in place of a tensor that torch has counted."""
    return 0 if weight.is_inference() else weight._version
