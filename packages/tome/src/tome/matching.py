"""Which tokens become one: bipartite soft matching and its variants (ToMe paper, section 3 and appendix D).

Shapes: B batch, T tokens, C channels of the metric, r tokens merged away. Matching takes no gradient; merging does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plm_core.errors import InputError

Merge = Callable[..., Tensor]
"""(x [B, T, *], mode="mean") -> [B, T - r, *]; mode is mean, sum, amax, amin or prod, over a group's tokens."""
Unmerge = Callable[[Tensor], Tensor]
"""[B, T - r, *] -> [B, T, *]: every token gets what its group has."""

MODES = ("mean", "sum", "amax", "amin", "prod")


@dataclass(frozen=True)
class Matching:
    """Groups of tokens, as indices. What is merged is any [B, T, *]; all shapes depend on shapes only."""

    kept: Tensor
    """[B, T - r] int64: for each output token, the input token whose place it takes."""
    merged: Tensor
    """[B, r] int64: the input tokens that are merged away."""
    into: Tensor
    """[B, r] int64: the output token each of them goes to."""
    dropped: int = field(default=0, kw_only=True)
    """Input tokens after the others that are neither kept nor merged."""

    def merge(self, x: Tensor, mode: str = "mean") -> Tensor:
        """Merge every group of x [B, T, *] into one token [B, T - r, *].

        Raises:
            InputError: Unknown mode, or tokens that the matching is not for.
        """
        self._check(x)
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is none of {', '.join(MODES)}")
        out, added = rows(x, self.kept), rows(x, self.merged)
        batch, count = self.kept.shape
        places = flat(self.into, count)
        out = out.flatten(0, 1)
        if mode == "sum":
            out = out.index_add(0, places, added.flatten(0, 1))
        else:
            reduced = places.view(-1, *[1] * (out.ndim - 1)).expand(-1, *out.shape[1:])
            out = out.scatter_reduce(0, reduced, added.flatten(0, 1), mode, include_self=True)
        return out.unflatten(0, (batch, count))

    def average(self, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Average every group of x [B, T, C] weighted by size [B, T, 1]; both merged, x in its own precision.

        As `merge_wavg`, but only the r tokens that go somewhere are computed with; the others are copied.
        """
        self._check(x)
        batch, count = self.kept.shape
        places = flat(self.into, count)
        out, sizes, added, weight = (
            rows(given, index).flatten(0, 1) for index in (self.kept, self.merged) for given in (x, size)
        )
        sizes = sizes.index_add_(0, places, weight)
        share = weight / sizes.index_select(0, places)
        change = (added.to(share.dtype) - out.index_select(0, places)) * share
        out = out.index_add_(0, places, change.to(x.dtype))
        return out.unflatten(0, (batch, count)), sizes.unflatten(0, (batch, count))

    def unmerge(self, x: Tensor) -> Tensor:
        """Give every token of [B, T, *] what its group has in x [B, T - r, *].

        Raises:
            InputError: Tokens that the matching does not give.
        """
        _check_tokens(x, *self.kept.shape)
        return rows(x, self.group)

    def _check(self, x: Tensor) -> None:
        batch, count = self.kept.shape
        _check_tokens(x, batch, count + self.merged.shape[1] + self.dropped)

    @property
    def group(self) -> Tensor:
        """[B, T] int64: the output token that each input token is part of."""
        batch, count = self.kept.shape
        group = self.kept.new_empty(batch, count + self.merged.shape[1])
        group = group.scatter(1, self.kept, torch.arange(count, device=group.device).expand(batch, -1))
        return group.scatter(1, self.merged, self.into)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[b, index[b]]`` for x [B, T, *] and index [B, n], as [B, n, *]."""
    return x.flatten(0, 1).index_select(0, flat(index, x.shape[1])).unflatten(0, index.shape)


def flat(index: Tensor, count: int) -> Tensor:
    """Indices [B, n] into ``count`` rows of each sample, as indices [B * n] into the rows of all samples."""
    return (index + count * torch.arange(index.shape[0], device=index.device)[:, None]).flatten()


def bipartite_soft_matching(
    metric: Tensor, r: int, class_token: bool = False, distill_token: bool = False
) -> tuple[Merge, Unmerge]:
    """Match every other token with the most similar of those between (paper, section 3).

    The r most similar pairs merge, at most half of the tokens that are not protected. Output tokens are in this order:
    the tokens left of the even places (with a class token by place, else most similar first), then those of the odd
    places; special tokens lead.

    Args:
        metric: [B, T, C], compared by cosine, see `similarity`. A zero vector counts as most
            similar to all.
        r: Tokens to merge away; 0 or less for none.
        class_token: Token 0 stays by itself.
        distill_token: So does token 1.

    Returns:
        Functions merge and unmerge, see `Merge` and `Unmerge`.

    Raises:
        InputError: The metric is not [B, T, C] or has NaN; r is not an integer.
    """
    check(metric, r)
    r = min(r, (metric.shape[1] - class_token - distill_token) // 2)
    if r <= 0:
        return identity, identity
    leading = (1, 1) if distill_token else (int(class_token), 0)
    matching = bipartite(metric, r, leading, protected=(int(class_token), int(distill_token)), by_place=class_token)
    return matching.merge, matching.unmerge


def match(metric: Tensor, r: int, prefix: int, by_place: bool) -> Matching | None:
    """`bipartite_soft_matching` for a model's tokens: the first ``prefix`` ones stay by themselves, and first.

    Checks nothing. None when there is nothing to merge.
    """
    r = min(r, (metric.shape[1] - prefix) // 2)
    if r <= 0:
        return None
    halves = ((prefix + 1) // 2, prefix // 2)
    return bipartite(metric, r, halves, protected=halves, by_place=by_place)


@torch.no_grad()
def bipartite(metric: Tensor, r: int, leading: tuple[int, int], protected: tuple[int, int], by_place: bool) -> Matching:
    """The matching behind both, for 0 < r that is possible.

    Args:
        metric: [B, T, C].
        r: Tokens to merge away.
        leading: How many of the tokens left of the even and of the odd places lead the output, alternating.
        protected: How many of the even places are never merged away, and of the odd ones never merged into.
        by_place: Tokens left of the even places are in order of place, not of similarity.
    """
    batch, tokens, _ = metric.shape
    scores = similarity(metric[:, ::2], metric[:, 1::2])
    if protected[0]:
        scores[:, : protected[0]] = -torch.inf
    if protected[1]:
        scores[:, :, : protected[1]] = -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(-1, descending=True)
    merged, left = order[:, :r], order[:, r:]
    if by_place:
        left = left.sort(-1).values
    odd = torch.arange(1, tokens, 2, device=metric.device).expand(batch, -1)
    a, b = leading
    kept = [2 * left[:, a:], odd[:, b:]]
    if a:
        front = torch.stack([2 * left[:, :b], odd[:, :b]], 2).flatten(1)
        kept = [front, 2 * left[:, b:a], *kept]
    return Matching(torch.cat(kept, 1), 2 * merged, partner.gather(1, merged) + left.shape[1])


@torch.no_grad()
def kth_bipartite_soft_matching(metric: Tensor, k: int) -> tuple[Merge, Unmerge]:
    """Merge every token into the most similar of every k-th one; tokens after the last whole k are dropped.

    Args:
        metric: [B, T, C].
        k: Of each k tokens one stays; 1 or less for no merging.

    Returns:
        Functions merge, [B, T, *] -> [B, T // k, *], and unmerge, which gives T // k * k tokens.

    Raises:
        InputError: The metric is not [B, T, C] or has NaN; k is no integer or more than T.
    """
    check(metric, k, "k")
    if k <= 1:
        return identity, identity
    batch, tokens, _ = metric.shape
    if k > tokens:
        raise InputError(f"k is {k}, more than the {tokens} tokens")
    places = torch.arange(tokens // k * k, device=metric.device).view(-1, k)
    kept, merged = (part.flatten().expand(batch, -1) for part in (places[:, -1:], places[:, :-1]))
    into = similarity(rows(metric, merged), rows(metric, kept)).argmax(-1)
    matching = Matching(kept, merged, into, dropped=tokens % k)
    return matching.merge, matching.unmerge


@torch.no_grad()
def random_bipartite_soft_matching(
    metric: Tensor, r: int, generator: torch.Generator | None = None
) -> tuple[Merge, Unmerge]:
    """Merge r random tokens of each sample into the most similar of the others; nothing is protected.

    Args:
        metric: [B, T, C].
        r: Tokens to merge away, fewer than T; 0 or less for none.
        generator: Where the choice comes from, on the metric's device; None for the global one.

    Returns:
        Functions merge and unmerge; output tokens are in random order.

    Raises:
        InputError: The metric is not [B, T, C] or has NaN; r is no integer, or leaves no token.
    """
    check(metric, r)
    if r <= 0:
        return identity, identity
    batch, tokens, _ = metric.shape
    if r >= tokens:
        raise InputError(f"r is {r}, which leaves none of {tokens} tokens")
    order = torch.rand(batch, tokens, 1, generator=generator, device=metric.device).argsort(1).squeeze(-1)
    merged, kept = order[:, :r], order[:, r:]
    matching = Matching(kept, merged, similarity(rows(metric, merged), rows(metric, kept)).argmax(-1))
    return matching.merge, matching.unmerge


def merge_wavg(merge: Merge, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average merged tokens by the number of patches each stands for (paper, section 3, "tracking token size").

    Args:
        merge: As the matching functions return it.
        x: [B, T, *].
        size: [B, T, 1], patches per token; None for one each.

    Returns:
        The merged tokens [B, T - r, *] and their sizes [B, T - r, 1].
    """
    if size is None:
        size = torch.ones_like(x[..., :1])
    merged, sizes = merge(x * size, mode="sum"), merge(size, mode="sum")
    return merged / sizes, sizes


def merge_source(merge: Merge, x: Tensor, source: Tensor | None = None) -> Tensor:
    """Follow which original tokens each token is made of; memory grows with T times the original T.

    Args:
        merge: As the matching functions return it.
        x: [B, T, *], only for its batch, T and device.
        source: [B, T, T_original] of zeros and ones; None for each token its own.

    Returns:
        [B, T - r, T_original].
    """
    if source is None:
        source = torch.eye(x.shape[1], device=x.device).expand(x.shape[0], -1, -1)
    return merge(source, mode="amax")


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of all pairs, [B, n, C] and [B, m, C] -> [B, n, m] in float32 or better. Zero vectors give NaN.

    Half precision is compared in float32; on CUDA its unit vectors are rounded to float16, for the tensor cores.
    """
    precise = torch.promote_types(a.dtype, torch.float32)
    tensor_cores = a.is_cuda and torch.version.hip is None and a.dtype != precise
    with _no_autocast(a.device.type):
        a, b = (x.to(precise) / x.to(precise).norm(dim=-1, keepdim=True) for x in (a, b))
        if tensor_cores:
            return torch.bmm(a.half(), b.half().mT, out_dtype=torch.float32)
        return a @ b.mT


def check(metric: Tensor, r: int, name: str = "r") -> None:
    """Refuse what no matching can make sense of; NaN is looked for outside of compiled graphs only.

    Raises:
        InputError: See the matching functions.
    """
    if not isinstance(r, int | torch.SymInt) or isinstance(r, bool):
        raise InputError(f"{name} is {r!r}, not an integer")
    if not isinstance(metric, Tensor):
        raise InputError(f"metric is a {type(metric).__name__}, not a torch.Tensor [batch, tokens, channels]")
    if metric.ndim != 3 or not metric.is_floating_point():
        raise InputError(f"metric is {metric.dtype} {list(metric.shape)}, not floating point [batch, tokens, channels]")
    if not torch.compiler.is_compiling() and metric.device.type != "meta" and metric.isnan().any():
        raise InputError("metric has NaN: the order of tokens would mean nothing")


def identity(x: Tensor, mode: str = "mean") -> Tensor:
    """Merge and unmerge where there is nothing to merge."""
    return x


def _check_tokens(x: Tensor, batch: int, count: int) -> None:
    """Of symbolic shapes too: those of a matching and of what it is for are the same symbols."""
    if not isinstance(x, Tensor) or x.shape[:2] != (batch, count):
        given = f"{list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputError(f"x is {given}; this matching is for tokens [{batch}, {count}, ...]")


def _no_autocast(device: str) -> AbstractContextManager[object]:
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
