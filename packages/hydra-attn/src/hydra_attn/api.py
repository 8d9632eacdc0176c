"""`apply` and `remove`: Hydra in place of the softmax in blocks of a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from hydra_attn.attention import KERNELS, hydra
from plm_core import blocks, transforms
from plm_core.blocks import BlockView, ModelView
from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.utils.near_misses import miss

NAME = "hydra"
ORDERS = ("backward", "forward", "interleaved")
M = TypeVar("M", bound=nn.Module)
Layers = int | Sequence[int] | Literal["all"]


@dataclass(frozen=True)
class Attention:
    """Hydra as the attention function of a block, see `plm_core.blocks.Attend`."""

    kernel: str

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None = None,
        dropout: float = 0.0,
        size: Tensor | None = None,
    ) -> Tensor:
        """Attend by all features of a token together: q, k, v [G, H, n, D] -> [G, H, n, D].

        Args:
            q: The queries.
            k: The keys.
            v: The values.
            bias: What is added to the logits of the keys, the same for all heads and queries: [G or 1, 1, 1, n].
            dropout: Must be 0, as there is no attention map to drop from.
            size: [G, n, 1], how many tokens each token stands for. It counts as often.

        Raises:
            NotSupported: The bias differs from query to query, or there is attention dropout.
        """
        if dropout:
            raise NotSupported(f"attention dropout {dropout}: Hydra has no attention map; set it to 0")
        weights = None if bias is None else _factors(bias, k)
        if size is not None:
            weights = size[..., 0] if weights is None else weights * size[..., 0]
        queries, keys, values = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
        y = hydra(queries, keys, values, self.kernel, weights=weights)
        return y.unflatten(2, (q.shape[1], -1)).transpose(1, 2)


def _factors(bias: Tensor, k: Tensor) -> Tensor:
    """Return the factors of the tokens, [G, n], that a bias of the logits means."""
    if bias.ndim != 4 or bias.shape[1:3] != (1, 1):
        raise NotSupported(
            f"a mask or bias of {list(bias.shape)}: Hydra gives each query the same sum, so it takes only one that is "
            "the same for all heads and queries"
        )
    factors = bias[:, 0, 0] if bias.dtype is torch.bool else bias[:, 0, 0].float().exp()
    return factors.expand(k.shape[0], -1)


@dataclass(frozen=True)
class Change:
    """The change of a block's pieces, see `plm_core.blocks.alter`."""

    kernel: str
    rotate: bool

    def __call__(self, view: BlockView) -> BlockView:
        """Return the view with Hydra as its attention, and without rotary positions if they are not wanted."""
        view = replace(view, attention=Attention(self.kernel))
        return view if self.rotate else replace(view, qkv=_Unrotated(view), unrotate=lambda key, **context: key)


@dataclass(frozen=True)
class _Unrotated:
    view: BlockView

    def __call__(self, x: Tensor, **context: object) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.view.qkv(x, **context)
        return self.view.unrotate(q, **context), self.view.unrotate(k, **context), v


def apply(
    model: M,
    layers: Layers = 2,
    order: Literal["backward", "forward", "interleaved"] = "backward",
    kernel: str = "cosine",
    rotate: bool = True,
) -> M:
    """Replace the softmax attention of blocks by Hydra, in place.

    The weights stay, but the block then computes something else: a model has to be trained, or trained further, with
    Hydra in it. `remove` undoes it bit for bit.

    Args:
        model: A model whose blocks a block adapter knows: timm's, torchvision's, transformers', or those of a package
            that declares one. If it has several towers, each is changed.
        layers: A number of blocks, their indices, or "all".
        order: For a number of blocks: the last ones ("backward"), the first ones ("forward"), or every so many, ending
            with the last ("interleaved").
        kernel: A name of `hydra_attn.KERNELS`.
        rotate: Whether queries and keys of rotary models are rotated by their positions. With Hydra the rotations are
            not relative any more: they make each feature depend on the place of a token.

    Returns:
        The same model.

    Raises:
        NotSupported: The model has no block adapter, or its blocks add relative positions to logits.
        InputError: An argument is not allowed, or Hydra is applied already.
        UnknownName: There is no such kernel.
    """
    install(model, layers, order, kernel, rotate)
    transforms.record(model, NAME)
    return model


def install(model: nn.Module, layers: Layers, order: str, kernel: str, rotate: bool = True) -> None:
    """Do what `apply` does, without a note that a transform is applied to the model."""
    if altered_blocks(model):
        raise InputError("Hydra is applied to this model already; remove it first")
    for view in chosen_views(model, layers, order, kernel, rotate):
        blocks.alter(view, Change(kernel, rotate))


def chosen_views(model: nn.Module, layers: Layers, order: str, kernel: str, rotate: bool = True) -> list[BlockView]:
    """Return the views of the blocks that `apply` changes, after a check of its arguments."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it is a torch.nn.Module")
    if kernel not in KERNELS:
        raise UnknownName(miss("kernel", kernel, KERNELS))
    if order not in ORDERS:
        raise InputError(f"order is {order!r}; it is {', '.join(map(repr, ORDERS))}")
    if not isinstance(rotate, bool):
        raise InputError(f"rotate is {rotate!r}; it is True or False")
    return [view for model_view in blocks.find(model).values() for view in _chosen(model_view, layers, order)]


def remove(model: M) -> M:
    """Restore the attention of all blocks.

    Raises:
        InputError: Hydra is not applied.
    """
    altered = altered_blocks(model)
    if not altered:
        raise InputError("Hydra is not applied to this model")
    for block in altered:
        blocks.unalter(block)
    transforms.forget(model, NAME)
    return model


def altered_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks whose attention is Hydra, in order."""
    return [module for module in model.modules() if isinstance(blocks.altered_by(module), Change)]


def _chosen(model_view: ModelView, layers: Layers, order: str) -> list[BlockView]:
    """Return the blocks to change."""
    if model_view.tokens.positions == "bias":
        raise NotSupported(
            f"{type(model_view.model).__name__} adds relative positions to the logits of its attention, and Hydra has "
            "no logits"
        )
    return [model_view.blocks[index] for index in indices(layers, len(model_view.blocks), order)]


def indices(layers: Layers, depth: int, order: str = "backward") -> list[int]:
    """Return the indices of the blocks to change, in order; see `apply`.

    Raises:
        InputError: ``layers`` is not allowed for so many blocks.
    """
    if layers == "all":
        return list(range(depth))
    if isinstance(layers, int) and not isinstance(layers, bool):
        if not 1 <= layers <= depth:
            raise InputError(f"layers is {layers}; a number from 1 to {depth}, the number of blocks, is allowed")
        by_order = {
            "backward": range(depth - layers, depth),
            "forward": range(layers),
            "interleaved": ((number + 1) * depth // layers - 1 for number in range(layers)),
        }
        return list(by_order[order])
    if isinstance(layers, str | bool) or not isinstance(layers, Sequence) or not layers:
        raise InputError(f"layers is {layers!r}; a number of blocks, a list of indices or 'all' is allowed")
    chosen = []
    for index in layers:
        if not isinstance(index, int) or isinstance(index, bool) or not -depth <= index < depth:
            raise InputError(f"layers has {index!r}; indices from 0 to {depth - 1} are allowed")
        chosen.append(index % depth)
    chosen.sort()
    if len(set(chosen)) < len(chosen):
        raise InputError(f"layers is {list(layers)}; a block is listed twice")
    return chosen
