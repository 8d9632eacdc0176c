"""How many tokens each block merges away (ToMe paper, section 4.3 and appendix C). Needs no torch."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from numbers import Integral, Real
from typing import Any, Literal

from plm_core.errors import InputError

R = int | tuple[int, float] | Sequence[int]


@dataclass(frozen=True)
class Target:
    """A schedule that leaves a share of the work: about the same r in every block, found when the tokens are known."""

    share: float
    of: Literal["flops", "tokens"]
    """``flops``: of the multiply-adds of all blocks; ``tokens``: of the patch tokens, after the last block."""


Schedule = tuple[int, ...] | Target


def parse(r: R | float | None, flops: float | None, tokens: float | None, depth: int) -> Schedule:
    """The schedule that `tome.apply`'s arguments mean for a model of ``depth`` blocks.

    Args:
        r: An integer for every block; (r, inflection) for a linear schedule that merges as many in sum, from 2 r in the
            first block to 0 in the last at -1, constant at 0, from 0 to 2 r at 1; or a list (a range, an array, a tuple
            that is not of two) with one number a block, where what lacks is 0; or a float between 0 and 1, which is
            short for ``flops``.
        flops: Share of the blocks' multiply-adds to leave.
        tokens: Share of the patch tokens to leave after the last block.
        depth: Number of blocks.

    Raises:
        InputError: None or several are given, or one is not of its kind.
    """
    given = {"r": r, "flops": flops, "tokens": tokens}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InputError(f"give one of r, flops and tokens, not {' and '.join(named) or 'none of them'}")
    if flops is not None:
        return _target(flops, "flops")
    if tokens is not None:
        return _target(tokens, "tokens")
    listed: Any = getattr(r, "tolist", None)  # of NumPy's arrays and numbers, of torch's tensors
    r = listed() if listed else r
    if isinstance(r, float) and 0 < r < 1:
        return _target(r, "flops")
    return per_block(r, depth)


def per_block(r: Any, depth: int) -> tuple[int, ...]:
    """The numbers that an integer, (r, inflection) or a list mean for each of ``depth`` blocks.

    Raises:
        InputError: Not one of these, a negative r, or an inflection outside -1 to 1.
    """
    inflection = 0.0
    if isinstance(r, tuple) and len(r) == 2:
        if not _is(r[0], Integral) or not _is(r[1], Real) or not -1 <= r[1] <= 1:
            raise InputError(
                f"r={r!r}: a tuple of two is (r, inflection) with an integer and a number from -1 to 1; "
                "a list has a number for each block"
            )
        r, inflection = r
    elif isinstance(r, Sequence) and not isinstance(r, str | bytes):
        return _listed(list(r), depth)
    if not _is(r, Integral):
        raise InputError(f"r is {r!r}; it can be an integer, (r, inflection), a list, or a share of FLOPs from 0 to 1")
    if r < 0:
        raise InputError(f"r is {r}; it cannot be negative")
    # in the order and with the rounding of the original, which decide about a token more or less
    first = int(r * (1 - inflection))
    step = (2 * r - 2 * first) / max(depth - 1, 1)
    return tuple(int(first + step * i) for i in range(depth))


def _listed(r: list[Any], depth: int) -> tuple[int, ...]:
    if not all(_is(entry, Integral) for entry in r):
        raise InputError(f"r={r!r}: a list has one integer for each block")
    if len(r) > depth:
        warn(f"r has {len(r)} entries for {depth} blocks; the last {len(r) - depth} mean nothing")
    return tuple(max(0, int(entry)) for entry in (r + [0] * depth)[:depth])


_BETWEEN = {"tome", "plm_core", "contextlib", "torch", "diffusers", "accelerate"}
"""Packages between a user's line and ours; the last ones for what is found out in a call of the model."""


def warn(message: str) -> None:
    """Warn about the line that called tome, by whatever way."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _target(share: float, of: Literal["flops", "tokens"]) -> Target:
    if not _is(share, Real) or not 0 < share <= 1:
        raise InputError(f"{of} is {share!r}; a share to leave is above 0 and at most 1")
    return Target(float(share), of)


@dataclass(frozen=True)
class Cost:
    """What a token costs in one block: multiply-adds per token, and for each pair of tokens that attend."""

    attention: int
    mlp: int
    pair: int

    def flops(self, before: int, after: int) -> int:
        """Multiply-adds of a block that attends among ``before`` tokens and feeds ``after`` forward."""
        return self.attention * before + self.pair * before * before + self.mlp * after


def meet(target: Target, tokens: int, prefix: int, depth: int, cost: Cost) -> tuple[int, ...]:
    """The numbers for each block that leave the share wanted, now that it is known how many tokens there are.

    It is met as closely as whole tokens allow, or as nearly as merging can where it is too small.
    """
    low, high = 0.0, float(tokens)
    while high - low > 1 / depth**2:  # `spread` changes at fractions of 1 to depth, of which one at most is left then
        middle = (low + high) / 2
        if _left(spread(middle, depth), target.of, tokens, prefix, cost) > target.share:
            low = middle
        else:
            high = middle
    near = (spread(low, depth), spread(high, depth))
    return min(near, key=lambda r: abs(_left(r, target.of, tokens, prefix, cost) - target.share))


def spread(r: float, depth: int) -> tuple[int, ...]:
    """Whole numbers, each r rounded up or down, such that their sums keep up with multiples of r."""
    return tuple(floor((i + 1) * r) - floor(i * r) for i in range(depth))


def counts(r: Sequence[int], tokens: int, prefix: int) -> list[int]:
    """Tokens before the first block and after each: a block merges at most half of those that are not special."""
    seen = [tokens]
    for entry in r:
        seen.append(seen[-1] - max(0, min(entry, (seen[-1] - prefix) // 2)))
    return seen


def _left(r: tuple[int, ...], of: str, tokens: int, prefix: int, cost: Cost) -> float:
    seen = counts(r, tokens, prefix)
    if of == "tokens":
        return (seen[-1] - prefix) / (tokens - prefix)
    spent = sum(cost.flops(before, after) for before, after in itertools.pairwise(seen))
    return spent / (len(r) * cost.flops(tokens, tokens))
