"""Replacing the forward of a block, and restoring it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plm_core.blocks.changes import refuse_exchanged, refuse_hidden
from plm_core.blocks.swapping import Swapped, forward_class, original_class, swap, swap_back
from plm_core.blocks.views import BlockView
from plm_core.errors import NotSupported

Forward = Callable[..., tuple[Tensor, Any]]
"""The forward of a patched block: (view, x, state, **context) -> (y, state).

``state`` is the value that the block before returned, and None for the first block. It travels as an attribute of the
token tensor, and the model itself holds no state. So concurrent calls in several threads, recomputed checkpoints and
compiled graphs each have their own."""

_STATE = "_plm_state"


@dataclass(frozen=True)
class _Patch:
    forward: Forward
    view_of: Callable[[nn.Module], BlockView]
    kinds: tuple[type[nn.Module], ...]
    """The classes of the modules that the pieces stand for, see `BlockView.hidden`."""


class Patched(Swapped):
    """A mixin for the class of a patched block."""

    context_names: tuple[str, ...]

    def __call__(self, x: Tensor, *args: Any, **context: Any) -> Tensor:
        """Call the module, with the state of ``x`` as an argument, since hooks (those of FSDP) may replace ``x``."""
        state = state_of(x)
        if state is not None:
            context["state"] = state
        # The __call__ of the block's own class, by which transformers below 5.23 recomputes checkpointed blocks. Not
        # super(): torch.compile keeps this method of a block, and calls it also after the patch was undone.
        block: Any = self
        y: Tensor = original_class(block).__call__(block, x, *args, **context)
        return y

    def forward(self, x: Tensor, *args: Any, state: Any = None, **context: Any) -> Tensor:
        """Run the forward of the last patch, and attach the state that it returns to the tokens."""
        block: Any = self
        patches: tuple[_Patch, ...] | None = self.__dict__.get("plm_patches")
        if patches is None:  # accelerate keeps this method, too
            y: Tensor = type(block).forward(block, x, *args, **context)
            return y
        context |= zip(self.context_names[: len(args)], args, strict=True)  # torch 2.9 compiles no strict=False
        if context.get("output_attentions"):  # transformers collects them from modules that a patch does not call
            raise NotSupported("output_attentions: a block that a transform has patched computes no attention weights")
        y, state = patches[-1].forward(_view_now(patches[-1], block), x, state, **context)
        if state is not None:
            setattr(y, _STATE, state)
        return y


def _view_now(patch: _Patch, block: nn.Module) -> BlockView:
    """Return the view of a block, unless the block is no longer built as when it was patched."""
    try:
        view = patch.view_of(block)
    except AttributeError as e:
        raise NotSupported(
            f"a block was changed after a transform was applied, and the transform cannot go on: {e}"
        ) from e
    refuse_exchanged(view, patch.kinds)
    refuse_hidden(view)
    return view


def state_of(x: Tensor) -> Any:
    """Return the state that a patched block attached to its output tokens, see `Forward`; None for other tensors."""
    return getattr(x, _STATE, None)


def patch(view: BlockView, forward: Forward) -> None:
    """Replace the forward of a block, see `Forward`; `unpatch` restores it. When patches stack, only the last one runs.

    The class of the block changes, as with `swap`. To pickle the model, ``forward`` must be picklable.
    """
    block, kinds = view.block, tuple(map(forward_class, view.hidden))
    block.__dict__["plm_patches"] = (*block.__dict__.get("plm_patches", ()), _Patch(forward, view.view_of, kinds))
    swap(block, Patched)


def unpatch(block: nn.Module) -> None:
    """Undo the last `patch` of a block."""
    patches = block.__dict__.pop("plm_patches")[:-1]
    if patches:
        block.__dict__["plm_patches"] = patches
    else:
        swap_back(block)


def patched_by(block: nn.Module) -> Forward | None:
    """Return the forward of the last `patch` of a block; None for a block that is not patched."""
    patches = block.__dict__.get("plm_patches")
    return patches[-1].forward if patches else None
