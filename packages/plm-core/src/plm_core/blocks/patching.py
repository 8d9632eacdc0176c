"""Replacing the forward of a block, and restoring it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plm_core.blocks.changes import refuse_exchanged, refuse_hidden
from plm_core.blocks.swapping import Swapped, forward_class, original_class, swap, swap_back
from plm_core.blocks.views import BlockView, run_block
from plm_core.errors import NotSupported

Forward = Callable[..., tuple[Tensor, Any]]
"""The forward of a patched block: (view, x, state, **context) -> (y, state).

``state`` is the value that the block before returned, and None for the first block. It travels as an attribute of the
token tensor, and the model itself holds no state. So concurrent calls in several threads, recomputed checkpoints and
compiled graphs each have their own."""

_STATE = "_plm_state"


Change = Callable[[BlockView], BlockView]
"""A change of the pieces of a block, such as another attention: view -> view."""


@dataclass(frozen=True)
class _Patch:
    """A forward, or a change of the pieces that the forward of another patch or the block's own is made of."""

    view_of: Callable[[nn.Module], BlockView]
    kinds: tuple[type[nn.Module], ...]
    """The classes of the modules that the pieces stand for, see `BlockView.hidden`."""
    forward: Forward | None = None
    change: Change | None = None


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
        """Run the last forward that `patch` gave, on the pieces as `alter` changed them.

        The state that it returns is attached to the tokens.
        """
        block: Any = self
        patches: tuple[_Patch, ...] | None = self.__dict__.get("plm_patches")
        if patches is None:  # accelerate keeps this method, too
            y: Tensor = type(block).forward(block, x, *args, **context)
            return y
        context |= zip(self.context_names[: len(args)], args, strict=True)  # torch 2.9 compiles no strict=False
        if context.get("output_attentions"):  # transformers collects them from modules that a patch does not call
            raise NotSupported("output_attentions: a block that a transform has patched computes no attention weights")
        view, replaced = _view_now(patches, block), patched_by(block)
        if replaced is None:
            return run_block(view, x, **context)
        y, state = replaced(view, x, state, **context)
        if state is not None:
            setattr(y, _STATE, state)
        return y


def _view_now(patches: tuple[_Patch, ...], block: nn.Module) -> BlockView:
    """Return the view of a block with all changes, unless the block is no longer built as when it was patched."""
    patch = patches[-1]
    try:
        view = patch.view_of(block)
    except AttributeError as e:
        raise NotSupported(
            f"a block was changed after a transform was applied, and the transform cannot go on: {e}"
        ) from e
    refuse_exchanged(view, patch.kinds)
    refuse_hidden(view)
    return altered(view)


def state_of(x: Tensor) -> Any:
    """Return the state that a patched block attached to its output tokens, see `Forward`; None for other tensors."""
    return getattr(x, _STATE, None)


def patch(view: BlockView, forward: Forward) -> None:
    """Replace the forward of a block, see `Forward`; `unpatch` restores it. When patches stack, only the last one runs.

    The class of the block changes, as with `swap`. To pickle the model, ``forward`` must be picklable.
    """
    _add(view, forward=forward)


def alter(view: BlockView, change: Change) -> None:
    """Change the pieces of a block, which its own forward and that of a `patch` are made of; `unalter` undoes it.

    Changes stack: each gets the view with those before. For the rest see `patch`.
    """
    _add(view, change=change)


def altered(view: BlockView) -> BlockView:
    """Return the view of a block with the changes that `alter` made to it."""
    for change in (patch.change for patch in _patches(view.block) if patch.change):
        view = change(view)
    return view


def _add(view: BlockView, **what: Any) -> None:
    block, kinds = view.block, tuple(map(forward_class, view.hidden))
    block.__dict__["plm_patches"] = (*_patches(block), _Patch(view.view_of, kinds, **what))
    swap(block, Patched)


def unpatch(block: nn.Module) -> None:
    """Undo the last `patch` of a block."""
    _drop(block, [patch.forward is not None for patch in _patches(block)])


def unalter(block: nn.Module) -> None:
    """Undo the last `alter` of a block."""
    _drop(block, [patch.change is not None for patch in _patches(block)])


def _drop(block: nn.Module, candidates: list[bool]) -> None:
    """Drop the last of the patches that are candidates."""
    last = len(candidates) - 1 - candidates[::-1].index(True)
    patches = _patches(block)
    block.__dict__["plm_patches"] = rest = (*patches[:last], *patches[last + 1 :])
    if not rest:
        block.__dict__.pop("plm_patches")
        swap_back(block)


def patched_by(block: nn.Module) -> Forward | None:
    """Return the forward of the last `patch` of a block; None for a block that has its own."""
    return next((patch.forward for patch in reversed(_patches(block)) if patch.forward), None)


def altered_by(block: nn.Module) -> Change | None:
    """Return the last change by `alter` of a block; None for a block that is not altered."""
    return next((patch.change for patch in reversed(_patches(block)) if patch.change), None)


def _patches(block: nn.Module) -> tuple[_Patch, ...]:
    return block.__dict__.get("plm_patches", ())
