"""A block's forward replaced, and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plm_core.blocks.swapping import Swapped, swap, swap_back
from plm_core.blocks.views import BlockView
from plm_core.errors import NotSupported

Forward = Callable[..., tuple[Tensor, Any]]
"""(view, x, state, **context) -> y, state: what a patched block does instead of its own forward.

``state`` is what the block before gave; None for the first. It travels as an attribute of the token tensor, so there
is no state on the model: calls in several threads, recomputed checkpoints and compiled graphs each see their own."""

_STATE = "_plm_state"


@dataclass(frozen=True)
class _Patch:
    forward: Forward
    view_of: Callable[[nn.Module], BlockView]


class Patched(Swapped):
    """Mixed into the class of a patched block."""

    context_names: tuple[str, ...]

    def __call__(self, x: Tensor, *args: Any, **context: Any) -> Tensor:
        """As nn.Module's; what ``x`` carries becomes an argument, since hooks (FSDP's) may replace ``x``."""
        state = state_of(x)
        if state is not None:
            context["state"] = state
        y: Tensor = super().__call__(x, *args, **context)  # type: ignore[misc]
        return y

    def forward(self, x: Tensor, *args: Any, state: Any = None, **context: Any) -> Tensor:
        """The last patch's forward."""
        patch: _Patch = self.__dict__["plm_patches"][-1]
        context |= zip(self.context_names, args, strict=False)
        if context.get("output_attentions"):  # transformers collects them from modules that a patch does not call
            raise NotSupported("output_attentions: a block that a transform has patched computes no attention weights")
        y, state = patch.forward(patch.view_of(self), x, state, **context)  # type: ignore[arg-type]
        if state is not None:
            setattr(y, _STATE, state)
        return y


def state_of(x: Tensor) -> Any:
    """What the tokens that a patched block gave carry, see `Forward`; None for any other tensor."""
    return getattr(x, _STATE, None)


def patch(view: BlockView, forward: Forward) -> None:
    """Replace a block's forward, see `Forward`; undone by `unpatch`. The last patch is the one that counts.

    The block's class changes, as by `swap`. A pickle of the model needs a ``forward`` that pickles.
    """
    block = view.block
    block.__dict__["plm_patches"] = (*block.__dict__.get("plm_patches", ()), _Patch(forward, view.view_of))
    swap(block, Patched)


def unpatch(block: nn.Module) -> None:
    """Undo the last `patch` of a block."""
    patches = block.__dict__.pop("plm_patches")[:-1]
    if patches:
        block.__dict__["plm_patches"] = patches
    else:
        swap_back(block)


def patched_by(block: nn.Module) -> Forward | None:
    """The forward of a block's last `patch`; None for a block as it was made."""
    patches = block.__dict__.get("plm_patches")
    return patches[-1].forward if patches else None
