"""Bipartite soft matching of tokens and its variants (ToMe paper, section 3 and appendix D).

Shapes: B batch, T tokens, C channels of the metric, r tokens merged away. Gradients flow through merging, not through
matching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plm_core.errors import InputError
from plm_core.utils.devices import no_autocast

Merge = Callable[..., Tensor]
"""(x [B, T, *], mode="mean") -> [B, T - r, *], where mode is mean, sum, amax, amin or prod over the tokens of a
group."""
Unmerge = Callable[[Tensor], Tensor]
"""[B, T - r, *] -> [B, T, *]: every token gets the value of its group."""

GRAIN_SIZE = 32768
"""torch computes so many elements on one thread."""

MODES = ("mean", "sum", "amax", "amin", "prod")


@dataclass(frozen=True)
class Matching:
    """Groups of tokens, as indices. They apply to any [B, T, *], and no shape depends on the values of the data."""

    kept: Tensor
    """[B, T - r] int64: for each output token, the input token whose place it takes."""
    merged: Tensor
    """[B, r] int64: the input tokens that are merged away."""
    into: Tensor
    """[B, r] int64: the output token into which each of ``merged`` goes."""
    dropped: int = field(default=0, kw_only=True)
    """Number of input tokens, after all others, that are neither kept nor merged."""

    def merge(self, x: Tensor, mode: str = "mean") -> Tensor:
        """Merge every group of x [B, T, *] into one token, [B, T - r, *].

        Raises:
            InputError: The mode is unknown, or x has another batch size or number of tokens than the matching.
        """
        self._check(x)
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is none of {', '.join(MODES)}")
        out, added = take_tokens(x, self.kept), take_tokens(x, self.merged)
        batch, count = self.kept.shape
        places = _offset(self.into, count).flatten()
        out = out.flatten(0, 1)
        if mode == "sum":
            out = _add_rows(out, places, added.flatten(0, 1))
        else:
            index = places.view(-1, *[1] * (out.ndim - 1)).expand(-1, *out.shape[1:])
            out = out.scatter_reduce(0, index, added.flatten(0, 1), mode, include_self=True)
        return out.reshape(batch, count, *out.shape[1:])

    def average(self, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Average every group of x [B, T, C], weighted by size [B, T, 1].

        The result is that of `merge_wavg`, but only the r tokens that are merged away cost arithmetic; the others are
        copied.

        Returns:
            The merged tokens [B, T - r, C] in the precision of x, and their sizes [B, T - r, 1].
        """
        self._check(x)
        batch, count = self.kept.shape
        sample = torch.arange(batch, device=x.device).unsqueeze(1)
        # one gather: first the tokens that are kept, of all samples, then those that merge, then what they merge into
        tokens = torch.cat([self.kept, self.merged, self.kept.gather(1, self.into)], 1) + x.shape[1] * sample
        rest = self.merged.shape[1]
        index = torch.cat([part.flatten() for part in tokens.split([count, rest, rest], 1)])
        places = (self.into + count * sample).flatten()
        numbers = [batch * count, batch * rest, batch * rest]
        out = x.flatten(0, 1).index_select(0, index)
        _, added, target = out.split(numbers)
        sizes, weight, _ = size.flatten(0, 1).index_select(0, index).split(numbers)
        sizes = _add_rows(sizes.clone(), places, weight)
        share = weight / sizes.index_select(0, places)
        for into, old, new, part in _parts(places, target, added, share):
            change = (old - new.to(part.dtype)) * part
            out = _add_rows(out, into, change.to(x.dtype), -1)
        return out.narrow(0, 0, numbers[0]).reshape(batch, count, -1), sizes.reshape(batch, count, 1)

    def unmerge(self, x: Tensor) -> Tensor:
        """Give every token of [B, T, *] the value of its group in x [B, T - r, *].

        Raises:
            InputError: x has another batch size or number of tokens than the output of this matching.
        """
        _check_tokens(x, *self.kept.shape)
        return take_tokens(x, self.group)

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


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Return ``x[b, index[b]]`` for each sample b: x [B, T, *], index [B, n] -> [B, n, *]."""
    rows = x.flatten(0, 1).index_select(0, _offset(index, x.shape[1]).flatten())
    # torch's exporter to ONNX by tracing takes the batch size of unflatten for a constant
    return rows.reshape(*index.shape, *rows.shape[1:])


def _add_rows(out: Tensor, index: Tensor, rows: Tensor, sign: int = 1) -> Tensor:
    """Add rows [n, *] to those of ``out`` that the indices [n] name, in place; several may go to the same one.

    With a sign of -1, torch adds rows on the CPU one by one, which suits the few of a matching. With 1 it sorts them
    first, in five parallel regions.
    """
    if torch.onnx.is_in_onnx_export():  # the tracing exporter writes index_add without the sum of repeated indices
        return out.scatter_add(0, index.view(-1, *[1] * (out.ndim - 1)).expand_as(rows), sign * rows)
    return out.index_add_(0, index, rows, alpha=sign)


def _parts(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Cut the rows of tensors on the CPU into up to four parts, each so small that torch computes it on one thread.

    So operations on them open no parallel region, see `plm_core.testing.parallel`. Larger tensors stay whole, and so do
    those of compiled and traced models, and those that need gradients, which torch refuses for several views of what is
    changed in place.
    """
    rows, elements = tensors[0].shape[0], max(tensor.numel() for tensor in tensors)
    if tensors[0].device.type != "cpu" or torch.compiler.is_compiling() or type(elements) is not int:
        return [tensors]
    if not GRAIN_SIZE < elements <= 4 * GRAIN_SIZE or any(tensor.requires_grad for tensor in tensors):
        return [tensors]
    return zip(*(tensor.split(max(1, rows * GRAIN_SIZE // elements)) for tensor in tensors), strict=True)


def _offset(index: Tensor, count: int) -> Tensor:
    """Turn indices [B, n] into the ``count`` rows of each sample into indices [B, n] into the rows of all samples."""
    return index + torch.arange(0, index.shape[0] * count, count, device=index.device)[:, None]


def bipartite_soft_matching(
    metric: Tensor, r: int, class_token: bool = False, distill_token: bool = False
) -> tuple[Merge, Unmerge]:
    """Match each token at an even place with the most similar token at an odd place (paper, section 3).

    The r most similar pairs merge; r is limited to half of the tokens that are not protected. The output has the
    special tokens first, then the even tokens that are left (in order of place if there is a class token, else the most
    similar first), then the odd tokens.

    Args:
        metric: [B, T, C], compared by cosine similarity, see `similarity`. A zero vector counts as the most similar to
            all others.
        r: Tokens to merge away; none if it is 0 or less.
        class_token: Never merge token 0.
        distill_token: Never merge token 1.

    Returns:
        The functions merge and unmerge, see `Merge` and `Unmerge`.

    Raises:
        InputError: The metric is not [B, T, C] or has NaN, or r is not an integer.
    """
    check_metric(metric, r)
    r = min(r, (metric.shape[1] - class_token - distill_token) // 2)
    if r <= 0:
        return identity, identity
    leading = (1, 1) if distill_token else (int(class_token), 0)
    matching = bipartite(metric, r, leading, protected=(int(class_token), int(distill_token)), by_place=class_token)
    return matching.merge, matching.unmerge


def match(metric: Tensor, r: int, prefix: int, by_place: bool) -> Matching | None:
    """Match the tokens of a model as `bipartite_soft_matching` does, without its checks.

    Args:
        metric: [B, T, C].
        r: Tokens to merge away; limited to half of the tokens that are not special.
        prefix: Number of special tokens. They come first, before and after merging, and never merge.
        by_place: Keep the even tokens that are left in order of place.

    Returns:
        The matching, or None if there is nothing to merge.
    """
    r = min(r, (metric.shape[1] - prefix) // 2)
    if r <= 0:
        return None
    halves = ((prefix + 1) // 2, prefix // 2)
    return bipartite(metric, r, halves, protected=halves, by_place=by_place)


@torch.no_grad()
def bipartite(metric: Tensor, r: int, leading: tuple[int, int], protected: tuple[int, int], by_place: bool) -> Matching:
    """Return the matching behind `bipartite_soft_matching` and `match`, without checks.

    Args:
        metric: [B, T, C].
        r: Tokens to merge away, at least 1 and at most what the unprotected even tokens allow.
        leading: The number of tokens, even and odd, that lead the output, in turn.
        protected: The number of even tokens that are never merged away, and of odd tokens that nothing merges into.
        by_place: Keep the even tokens that are left in order of place, not of similarity.
    """
    batch, tokens, _ = metric.shape
    scores = similarity(metric[:, ::2], metric[:, 1::2])
    if protected[0]:
        scores[:, : protected[0]] = -torch.inf
    if protected[1]:
        scores[:, :, : protected[1]] = -torch.inf
    order = _greatest(scores).argsort(-1, descending=True)
    merged, left = order[:, :r], order[:, r:]
    if by_place:
        left = left.sort(-1).values
    odd = torch.arange(1, tokens, 2, device=metric.device).expand(batch, -1)
    a, b = leading
    kept = [2 * left[:, a:], odd[:, b:]]
    if a:
        front = torch.stack([2 * left[:, :b], odd[:, :b]], 2).flatten(1)
        kept = [front, 2 * left[:, b:a], *kept]
    partner = scores.gather(1, merged.unsqueeze(2).expand(-1, -1, scores.shape[2])).argmax(-1)
    return Matching(torch.cat(kept, 1), 2 * merged, partner + left.shape[1])


def _greatest(scores: Tensor) -> Tensor:
    """[B, n, m] -> [B, n], the maxima."""
    parts = [part.amax(-1) for (part,) in _parts(scores.flatten(0, 1))]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(scores.shape[:2])


@torch.no_grad()
def kth_bipartite_soft_matching(metric: Tensor, k: int) -> tuple[Merge, Unmerge]:
    """Merge every token into the most similar of the tokens at each k-th place.

    The tokens after the last multiple of k are dropped.

    Args:
        metric: [B, T, C].
        k: One token of each k is left; there is no merging if k is 1 or less.

    Returns:
        The functions merge, [B, T, *] -> [B, T // k, *], and unmerge, which returns T // k * k tokens.

    Raises:
        InputError: The metric is not [B, T, C] or has NaN, or k is not an integer or is more than T.
    """
    check_metric(metric, k, "k")
    if k <= 1:
        return identity, identity
    batch, tokens, _ = metric.shape
    if k > tokens:
        raise InputError(f"k is {k}, more than the {tokens} tokens")
    places = torch.arange(tokens // k * k, device=metric.device).view(-1, k)
    kept, merged = (part.flatten().expand(batch, -1) for part in (places[:, -1:], places[:, :-1]))
    into = similarity(take_tokens(metric, merged), take_tokens(metric, kept)).argmax(-1)
    matching = Matching(kept, merged, into, dropped=tokens % k)
    return matching.merge, matching.unmerge


@torch.no_grad()
def random_bipartite_soft_matching(
    metric: Tensor, r: int, generator: torch.Generator | None = None
) -> tuple[Merge, Unmerge]:
    """Merge r random tokens of each sample into the most similar of the others. No token is protected.

    Args:
        metric: [B, T, C].
        r: Tokens to merge away, fewer than T; none if it is 0 or less.
        generator: Generator of the random choice, on the metric's device; None for the global one.

    Returns:
        The functions merge and unmerge. The output tokens are in random order.

    Raises:
        InputError: The metric is not [B, T, C] or has NaN, or r is not an integer or leaves no token.
    """
    check_metric(metric, r)
    if r <= 0:
        return identity, identity
    batch, tokens, _ = metric.shape
    if r >= tokens:
        raise InputError(f"r is {r}, which leaves none of {tokens} tokens")
    order = torch.rand(batch, tokens, 1, generator=generator, device=metric.device).argsort(1).squeeze(-1)
    merged, kept = order[:, :r], order[:, r:]
    matching = Matching(kept, merged, similarity(take_tokens(metric, merged), take_tokens(metric, kept)).argmax(-1))
    return matching.merge, matching.unmerge


def merge_wavg(merge: Merge, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average merged tokens weighted by the number of patches of each (paper, section 3, "tracking token size").

    Args:
        merge: The function merge that a matching function returned.
        x: [B, T, *].
        size: [B, T, 1], the number of patches of each token; None for one each.

    Returns:
        The merged tokens [B, T - r, *] and their sizes [B, T - r, 1].
    """
    if size is None:
        size = torch.ones_like(x[..., :1])
    merged, sizes = merge(x * size, mode="sum"), merge(size, mode="sum")
    return merged / sizes, sizes


def merge_source(merge: Merge, x: Tensor, source: Tensor | None = None) -> Tensor:
    """Track which original tokens each token is made of. Memory grows with T times the original T.

    Args:
        merge: The function merge that a matching function returned.
        x: [B, T, *]; only its batch size, T and device matter.
        source: [B, T, T_original] of zeros and ones; None if each token is still its own.

    Returns:
        [B, T - r, T_original].
    """
    if source is None:
        source = torch.eye(x.shape[1], device=x.device).expand(x.shape[0], -1, -1)
    return merge(source, mode="amax")


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity of all pairs: [B, n, C] and [B, m, C] -> [B, n, m], in float32 or better.

    Zero vectors give NaN. Half precision is compared in float32; on CUDA the unit vectors are then rounded to float16,
    so that tensor cores can multiply them.
    """
    precise = torch.promote_types(a.dtype, torch.float32)
    tensor_cores = a.is_cuda and torch.version.hip is None and a.dtype != precise
    with no_autocast(a.device.type):
        a, b = (x.to(precise) / x.to(precise).norm(dim=-1, keepdim=True) for x in (a, b))
        if tensor_cores:
            return torch.bmm(a.half(), b.half().transpose(-2, -1), out_dtype=torch.float32)
        return _product(a, b)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply [B, n, C] and [B, m, C] to [B, n, m].

    On AMD's processors MKL opens two parallel regions for a single product, and one for several. So the product of one
    image is computed in halves, with the same result.
    """
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if traced or a.device.type != "cpu" or a.shape[0] != 1 or a.shape[1] * b.shape[1] % 2:
        return a @ b.transpose(-2, -1)
    if a.shape[1] % 2 == 0:
        halves = torch.bmm(a.unflatten(1, (2, -1))[0], b.transpose(-2, -1).expand(2, -1, -1))
        return halves.flatten(0, 1)[None]
    halves = torch.bmm(a.expand(2, -1, -1), b.unflatten(1, (2, -1))[0].transpose(-2, -1))
    return halves.transpose(0, 1).flatten(1)[None]


def check_metric(metric: Tensor, r: int, name: str = "r") -> None:
    """Check the arguments of a matching function. NaN is looked for only outside compiled graphs.

    Args:
        metric: The metric.
        r: The number of tokens, or k.
        name: The name of that argument in the message.

    Raises:
        InputError: The metric is not a floating-point [B, T, C] or has NaN, or r is not an integer.
    """
    if not isinstance(r, int | torch.SymInt) or isinstance(r, bool):
        raise InputError(f"{name} is {r!r}, not an integer")
    if not isinstance(metric, Tensor):
        raise InputError(f"metric is a {type(metric).__name__}, not a torch.Tensor [batch, tokens, channels]")
    if metric.layout is not torch.strided:
        raise InputError(f"metric is a tensor of layout {metric.layout}; a dense one is expected: metric.to_dense()")
    if metric.ndim != 3 or not metric.is_floating_point():
        raise InputError(f"metric is {metric.dtype} {list(metric.shape)}, not floating point [batch, tokens, channels]")
    if not torch.compiler.is_compiling() and metric.device.type != "meta" and metric.isnan().any():
        raise InputError("metric has NaN: the order of the tokens would be meaningless")


def identity(x: Tensor, mode: str = "mean") -> Tensor:
    """Return x unchanged: merge and unmerge when there is nothing to merge."""
    return x


def _check_tokens(x: Tensor, batch: int, count: int) -> None:
    """Check batch size and token count. Under torch.export both sides carry the same symbols."""
    if not isinstance(x, Tensor) or x.shape[:2] != (batch, count):
        actual = f"{list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputError(f"x is {actual}; this matching is for tokens [{batch}, {count}, ...]")
