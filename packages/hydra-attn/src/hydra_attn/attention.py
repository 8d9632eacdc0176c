"""Hydra Attention: attention with as many heads as features, which costs T * D (paper: arXiv 2209.07484).

Linear attention replaces the softmax by a kernel, phi(Q) phi(K)^T V, and multiplies K^T V first. With one head per
feature that product is a vector: each token contributes phi(K) * V, the contributions are summed over the tokens, and
each query takes phi(Q) times the sum (section 3)::

    hydra(Q, K, V) = phi(Q) * sum over t of phi(K_t) * V_t

So a sequence comes down to a `Context` of one vector. `gather` makes it, chunk by chunk if need be, `read` answers
queries from it, and `step` does both for causal attention. `hydra` is these in one call.

Shapes: B batch, T tokens, D features. Sums are taken in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from hydra_attn.arguments import check_queries, check_tokens
from hydra_attn.chunks import chunks, in_chunks
from plm_core.errors import InputError, UnknownName
from plm_core.utils.devices import no_autocast
from plm_core.utils.near_misses import miss

EPS = 1e-12
"""The least norm that a token is divided by."""
NEVER = -1e30
"""The logit of a token that does not count: finite, so that a softmax over such tokens only is no NaN."""


@dataclass(frozen=True)
class Kernel:
    """A kernel: what is taken of a query and of a key before they are multiplied.

    Attributes:
        query: phi of a query.
        key: phi of a key. None takes 1, so the sum is over the values alone.
        unit: Whether phi also divides queries and keys by their norms over all D features.
        average: Whether the sum over the tokens is divided by their number.
        softmax: Whether phi of the keys is their softmax over the tokens, in place of ``key``.
    """

    query: Callable[[Tensor], Tensor] = lambda q: q
    key: Callable[[Tensor], Tensor] | None = lambda k: k
    unit: bool = False
    average: bool = False
    softmax: bool = False


KERNELS = MappingProxyType(
    {
        "cosine": Kernel(unit=True),
        "mean": Kernel(average=True),
        "tanh_softmax": Kernel(query=torch.tanh, softmax=True),
        "sigmoid_softmax": Kernel(query=torch.sigmoid, softmax=True),
        "tanh": Kernel(query=torch.tanh, key=torch.tanh),
        "uniform": Kernel(query=torch.ones_like, key=None, average=True),
    }
)
"""The kernels by name. The first four are those of the paper's table 1, with "sigmoid_softmax" as AFT-Simple's. Its
"mean" is q k / T, not an average of values, which "uniform" is."""


class Context(NamedTuple):
    """The sum over the tokens so far, by which queries are answered.

    Attributes:
        value: [B, 1, D], the sum, or the average of kernels that divide by the number of tokens or by a softmax's sum.
        log_mass: The logarithm of that divisor, [B, 1, 1] or [B, 1, D]; None if there is none.
    """

    value: Tensor
    log_mass: Tensor | None = None


def hydra(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel: str = "cosine",
    mask: Tensor | None = None,
    causal: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute Hydra attention (section 3 of the paper). There is no scale and no attention dropout.

    The sum is over the tokens and not their mean, so outputs grow with their number, as in the paper.

    Args:
        q: [B, T, D], the queries; D is all features of a token, not those of a head. For cross-attention their number
            may be another than that of the keys.
        k: [B, T, D], the keys.
        v: [B, T, D], the values.
        kernel: A name of `KERNELS`.
        mask: [B, T], False or 0 for tokens that do not count, whatever their values. A number multiplies what the
            token contributes.
        causal: Whether each token sees only itself and the tokens before it.
        weights: [B, T], how often each token counts, such as the number of patches that it stands for.

    Returns:
        [B, T, D], of the dtype of ``q``. A query that no token counts for gets zeros.

    Raises:
        InputError: Shapes, dtypes or devices do not fit, or there are no tokens.
        UnknownName: There is no such kernel.
    """
    if causal:
        return step(q, k, v, kernel, mask, weights)[0]
    check_queries(q, k)
    return read(q, gather(k, v, kernel, mask, weights), kernel)


def gather(
    k: Tensor,
    v: Tensor,
    kernel: str = "cosine",
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    before: Context | None = None,
) -> Context:
    """Return the context of a sequence, or of its next chunk and those before.

    The arguments are those of `hydra`, and ``before``, the context of the chunks before.
    """
    check_tokens(k, v, mask, weights)
    parts = (_contexts(*chunk, kernel, causal=False) for chunk in chunks(k, v, mask, weights))
    return reduce(_joined, parts, before)  # type: ignore[return-value]


def read(q: Tensor, context: Context, kernel: str = "cosine") -> Tensor:
    """Answer queries from a context of the same kernel: [B, T, D] -> [B, T, D]."""
    return in_chunks(lambda q: _read(q, context, _kernel(kernel)), q, context.value)


def _read(q: Tensor, context: Context, phi: Kernel) -> Tensor:
    y = phi.query(q.to(context.value.dtype)) * context.value
    return (y / _norm(q, y.dtype) if phi.unit else y).to(q.dtype)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel: str = "cosine",
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    before: Context | None = None,
) -> tuple[Tensor, Context]:
    """Answer the queries of the next chunk of a causal sequence, each from the tokens up to its own.

    The arguments are those of `gather`, and ``q``, as many queries as keys.

    Returns:
        [B, T, D], and the context of all tokens so far.
    """
    check_queries(q, k, causal=True)
    check_tokens(k, v, mask, weights)
    contexts = _joined(before, _contexts(k, v, mask, weights, kernel, causal=True))
    last = Context(*(part if part is None else part[:, -1:] for part in contexts))  # type: ignore[arg-type]
    return _read(q, contexts, _kernel(kernel)), last


def _contexts(k: Tensor, v: Tensor, mask: Tensor | None, weights: Tensor | None, kernel: str, causal: bool) -> Context:
    """Return the context of all tokens, or of those up to each token with T in place of 1 in its shapes."""
    phi = _kernel(kernel)
    dtype = torch.promote_types(k.dtype, torch.float32)
    counts = _counts(mask, weights, dtype)
    k, v = k.to(dtype), v.to(dtype)
    if counts is not None:  # a token that does not count may be anything, even NaN
        k, v = k.masked_fill(counts == 0, 0), v.masked_fill(counts == 0, 0)
    if phi.softmax:
        return _softmax(k, v, counts, causal)
    terms = v if phi.key is None else phi.key(k) * v
    scales = counts
    if phi.unit:
        scales = 1 / _norm(k, dtype) if counts is None else counts / _norm(k, dtype)
    value = _sum(terms, scales, causal)
    if not phi.average:
        return Context(value)
    ones = torch.ones_like(v[..., :1]) if counts is None else counts
    number = _sum(ones, None, causal).clamp_min(EPS)
    return Context(value / number, number.log())


def _counts(mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return how often each token counts, [B, T, 1], or None if each counts once."""
    parts = [part.to(dtype)[..., None] for part in (mask, weights) if part is not None]
    return parts[0] * parts[1] if len(parts) == 2 else parts[0] if parts else None


def _norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).clamp_min(EPS)


def _sum(terms: Tensor, scales: Tensor | None, causal: bool) -> Tensor:
    """Sum terms [B, T, D], each times its scale [B, T, 1], over the tokens, or over those up to each token."""
    if causal:
        return (terms if scales is None else terms * scales).cumsum(1)
    if scales is None:
        return terms.sum(1, keepdim=True)
    with no_autocast(terms.device.type):  # which would round
        return scales.transpose(1, 2) @ terms


def _softmax(k: Tensor, v: Tensor, counts: Tensor | None, causal: bool) -> Context:
    """Return the average of the values by the softmax of the keys over the tokens, for each feature."""
    if counts is not None:
        k = k + torch.where(counts > 0, counts.clamp_min(EPS).log(), NEVER)
    if not causal:
        return Context((k.softmax(1) * v).sum(1, keepdim=True), k.logsumexp(1, keepdim=True))
    # Sums of exponentials overflow or vanish where keys grow or shrink along the sequence; their logarithms do not.
    tiny = torch.finfo(v.dtype).tiny
    log_mass = k.logcumsumexp(1)
    positive, negative = ((k + part.clamp_min(tiny).log()).logcumsumexp(1) - log_mass for part in (v, -v))
    return Context(positive.exp() - negative.exp(), log_mass)


def _joined(before: Context | None, context: Context) -> Context:
    """Return the context of two parts of a sequence."""
    if before is None:
        return context
    if before.log_mass is None and context.log_mass is None:
        return Context(before.value + context.value)
    if before.log_mass is None or context.log_mass is None:
        raise InputError("before is a context of another kernel")
    log_mass = torch.logaddexp(before.log_mass, context.log_mass)
    old, new = (before.log_mass - log_mass).exp(), (context.log_mass - log_mass).exp()
    return Context(old * before.value + new * context.value, log_mass)


def _kernel(name: str) -> Kernel:
    if name not in KERNELS:
        raise UnknownName(miss("kernel", name, KERNELS))
    return KERNELS[name]
