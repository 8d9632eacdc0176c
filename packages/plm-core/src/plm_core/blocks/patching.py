"""How transforms reach into a model: its blocks taken apart, its special tokens, its positions.

The package that owns a model family declares a `BlockAdapter` whose ``view`` function returns a `ModelView`. A
transform asks `view(model)` and works on what it gets, so it neither guesses attribute names nor imports the family's
package. The pieces of a block are chosen such that `run_block` with plain attention equals the block's own forward
(``plm_core.testing.check_blocks`` holds every adapter to that); a transform swaps one piece: Hydra the attention
itself, Token Merging what happens between attention and MLP.

Shapes: B batch, N tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.errors import NotSupported
from plm_core.hookspecs import BlockAdapter
from plm_core.names import class_paths, resolve
from plm_core.registry import registry

Attend = Callable[..., Tensor]
"""(q, k, v) -> attended, all [G, H, n, D]; also ``bias=`` and ``dropout=`` where a block has them, see `attend`."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that stand before the patch tokens, in this order, and what marks a patch's place."""

    class_tokens: int = 0
    distill_tokens: int = 0
    register_tokens: int = 0
    positions: str = "absolute"
    """``absolute`` (added to the input), ``rotary`` (passed to each block) or ``bias`` (inside the attention)."""

    @property
    def prefix(self) -> int:
        """Number of tokens that are not patches."""
        return self.class_tokens + self.distill_tokens + self.register_tokens


@dataclass(frozen=True)
class BlockView:
    """One block taken apart. ``x`` is whatever the block's own forward takes, [B, N, C] unless the family says so."""

    block: nn.Module
    name: str
    """Dotted path inside the model, ``blocks.3``."""
    heads: int
    normalize: Callable[[Tensor], Tensor]
    """x -> the input of the attention."""
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(normalized x, **context) -> q, k, v, each [G, H, n, D] with q and k normed; G = B, or B times the number of
    windows. The context is what the block's forward gets besides x, such as the ``rope`` of rotary families."""
    output: Callable[[Tensor, Tensor], Tensor]
    """(attended [G, H, n, D], normalized x) -> the attention branch, as it is added to the skip."""
    skip: Callable[[Tensor, Tensor], Tensor]
    """(x, normalized x) -> what the attention branch is added to; x itself unless the block pools or widens."""
    feed_forward: Callable[[Tensor], Tensor]
    """x after attention -> x after the MLP, its skip included."""
    rebind: Callable[[nn.Module], BlockView]
    """The view of another block of the kind, such as a copy of this one."""
    local: bool = False
    """Attention inside windows only: tokens cannot be merged or dropped freely."""
    pools: bool = False
    """The block reduces the number of tokens itself."""
    bias: Callable[..., Tensor | None] = lambda **context: None
    """(**context) -> what is added to the attention's logits, [G or 1, H or 1, N, N], such as BEiT's relative
    positions; or None."""
    select: Callable[[Mapping[str, Any], Tensor], Mapping[str, Any]] = lambda context, kept: context
    """(context, kept [B, n]) -> the context for the tokens kept only, by their places among all N; such as the rows of
    ``rope``. Raises NotSupported when the context has what cannot follow, such as a mask."""
    dropout: float = 0.0
    """Rate of attention dropout, 0 in eval mode."""
    unrotate: Callable[..., Tensor] = lambda key, **context: key
    """(k as ``qkv`` gives it, **context) -> k without the rotation of rotary families: what a token is, wherever it
    stands."""


@dataclass(frozen=True)
class ModelView:
    """A model as transforms see it."""

    model: nn.Module
    blocks: tuple[BlockView, ...]
    tokens: Tokens


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention on torch's fused kernel; [G, H, n, D] in and out, a bias that broadcasts to [G, H, n, n]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def run_block(view: BlockView, x: Tensor, attention: Attend = attend, **context: Any) -> Tensor:
    """A block's forward from its pieces, with another attention if asked."""
    return view.feed_forward(_attended(view, x, attention, context))


def _attended(view: BlockView, x: Tensor, attention: Attend, context: Mapping[str, Any]) -> Tensor:
    """Apart from the MLP, so that nothing of the attention is in memory any more when that runs."""
    normed = view.normalize(x)
    y = view.output(attention(*view.qkv(normed, **context), **extras(view, **context)), normed)
    return view.skip(x, normed) + y


def extras(view: BlockView, **context: Any) -> dict[str, Any]:
    """What the attention of a block gets besides q, k and v: its bias and its dropout, where it has them."""
    bias = view.bias(**context)
    return ({} if bias is None else {"bias": bias}) | ({"dropout": view.dropout} if view.dropout else {})


Forward = Callable[..., tuple[Tensor, Any]]
"""(view, x, carried, **context) -> y, carried: what a patched block does instead of its own forward.

``carried`` is what the block before gave; None for the first. It travels as an attribute of the token tensor, so there
is no state on the model: calls in several threads, recomputed checkpoints and compiled graphs each see their own."""

_CARRIED = "_plm_carried"


@dataclass(frozen=True)
class _Patch:
    forward: Forward
    rebind: Callable[[nn.Module], BlockView]


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


class Patched(Swapped):
    """Mixed into the class of a patched block."""

    context_names: tuple[str, ...]

    def __call__(self, x: Tensor, *args: Any, **context: Any) -> Tensor:
        """As nn.Module's; what ``x`` carries becomes an argument, since hooks (FSDP's) may replace ``x``."""
        carried = carried_by(x)
        if carried is not None:
            context["carried"] = carried
        y: Tensor = super().__call__(x, *args, **context)  # type: ignore[misc]
        return y

    def forward(self, x: Tensor, *args: Any, carried: Any = None, **context: Any) -> Tensor:
        """The last patch's forward."""
        patch: _Patch = self.__dict__["plm_patches"][-1]
        context |= zip(self.context_names, args, strict=False)
        if context.get("output_attentions"):  # transformers collects them from modules that a patch does not call
            raise NotSupported("output_attentions: a block that a transform has patched computes no attention weights")
        y, carried = patch.forward(patch.rebind(self), x, carried, **context)  # type: ignore[arg-type]
        if carried is not None:
            setattr(y, _CARRIED, carried)
        return y


def carried_by(x: Tensor) -> Any:
    """What the tokens that a patched block gave carry, see `Forward`; None for any other tensor."""
    return getattr(x, _CARRIED, None)


def patch(view: BlockView, forward: Forward) -> None:
    """Replace a block's forward, see `Forward`; undone by `unpatch`. The last patch is the one that counts.

    The block's class changes, as by `swap`. A pickle of the model needs a ``forward`` that pickles.
    """
    block = view.block
    block.__dict__["plm_patches"] = (*block.__dict__.get("plm_patches", ()), _Patch(forward, view.rebind))
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


def view(model: nn.Module) -> ModelView:
    """The view of a model through the adapter declared for its class.

    Raises:
        NotSupported: No adapter for the class, or the adapter declines this instance and says why.
    """
    adapters = registry().for_class(BlockAdapter, model)
    if not adapters:
        raise NotSupported(
            f"no block adapter for {type(model).__module__}.{type(model).__name__}; "
            "the package that owns it can declare one"
        )
    for path, part in model.named_modules():
        compiled = [name for name, child in part.named_children() if "_orig_mod" in child._modules]
        if compiled and isinstance(part, nn.ModuleList | nn.Sequential):
            raise NotSupported(f"block {path}.{compiled[0]} is compiled already: apply transforms first, then compile")
    found: ModelView = resolve(adapters[0].view)(model)
    return found


def find(model: nn.Module) -> dict[str, ModelView]:
    """Views of a model, or of the outermost models inside it that have one, by their dotted path ("" for itself).

    Reaches a vision tower inside a larger model, and what a wrapper such as timm's ``features_only`` holds.

    Raises:
        NotSupported: There is none; says what was found and what has adapters. Or an adapter declines.
    """
    found: dict[str, ModelView] = {}

    def search(module: nn.Module, path: str) -> None:
        if registry().for_class(BlockAdapter, module):
            found[path] = view(module)
        else:
            for name, child in module.named_children():
                search(child, f"{path}.{name}" if path else name)

    search(model, "")
    if not found:
        known = sorted({entry.declaration.name for entry in registry().all(BlockAdapter).values()})
        raise NotSupported(
            f"no block adapter for {class_paths(model)[0].replace(':', '.')} nor for a model inside it; "
            f"there are adapters for: {', '.join(known)}; the package that owns a model can declare one"
        )
    return found
