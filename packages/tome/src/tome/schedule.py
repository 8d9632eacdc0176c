"""The number of tokens that each block merges away (ToMe paper, section 4.3 and appendix C). It does not need torch."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from numbers import Integral, Real
from typing import Any, Literal

from plm_core.errors import InputError
from tome.warning import warn_user


@dataclass(frozen=True)
class Target:
    """A share of the work to leave. `solve` turns it into a schedule when the number of tokens is known."""

    share: float
    of: Literal["flops", "tokens"]
    """``flops``: the multiply-adds of all blocks; ``tokens``: the patch tokens after the last block."""


Schedule = tuple[int, ...] | Target
R = int | tuple[int, float] | Sequence[int] | Target


def parse(r: R | float | None, flops: float | None, tokens: float | None, depth: int) -> Schedule:
    """Return the schedule that the arguments of `tome.apply` ask for in a model of ``depth`` blocks.

    Args:
        r: The number of tokens to merge away in each block. An integer counts for every block. (r, inflection) is a
            linear schedule with the same total as r in every block: inflection -1 falls from 2 r in the first block to
            0 in the last, 0 is constant, and 1 rises from 0 to 2 r. A list (or a range, an array, a tuple that is not
            of two) has one number for each block, and missing ones are 0, with a warning. A float between 0 and 1 is
            short for ``flops``. A `Target` is taken as it is.
        flops: Share of the blocks' multiply-adds to leave.
        tokens: Share of the patch tokens to leave after the last block.
        depth: Number of blocks.

    Raises:
        InputError: None or several of r, flops and tokens are given, or the one given has a wrong type or value.
    """
    arguments = {"r": r, "flops": flops, "tokens": tokens}
    names = [name for name, value in arguments.items() if value is not None]
    if len(names) != 1:
        raise InputError(f"give one of r, flops and tokens, not {' and '.join(names) or 'none of them'}")
    if flops is not None:
        return _target(flops, "flops")
    if tokens is not None:
        return _target(tokens, "tokens")
    if isinstance(r, Target):
        return _target(r.share, r.of)
    to_list: Any = getattr(r, "tolist", None)  # NumPy arrays and numbers, and torch tensors
    try:
        r = to_list() if callable(to_list) else r
    except (RuntimeError, TypeError, NotImplementedError) as e:  # tensors that are sparse or without data
        raise InputError(f"r is a {type(r).__name__} that cannot be read: it can be an integer or a list") from e
    if isinstance(r, float) and 0 < r < 1:
        return _target(r, "flops")
    return per_block(r, depth)


def per_block(r: Any, depth: int) -> tuple[int, ...]:
    """Return the number for each of ``depth`` blocks that an integer, (r, inflection) or a list stands for.

    Raises:
        InputError: r is none of these or is negative, or the inflection is outside -1 to 1.
    """
    inflection = 0.0
    if isinstance(r, tuple) and len(r) == 2:
        if not _is_number(r[0], Integral) or not _is_number(r[1], Real) or not -1 <= r[1] <= 1:
            raise InputError(
                f"r={r!r}: a tuple of two is (r, inflection) with an integer and a number from -1 to 1; "
                "a list has a number for each block"
            )
        r, inflection = r
    elif isinstance(r, Sequence) and not isinstance(r, str | bytes):
        return _from_list(list(r), depth)
    if not _is_number(r, Integral):
        raise InputError(
            f"r is {reprlib.repr(r)}; it can be an integer, (r, inflection), a list, or a share of FLOPs from 0 to 1"
        )
    if r < 0:
        raise InputError(f"r is {r}; it cannot be negative")
    # the order of operations and the rounding are the original's: they decide about single tokens
    first = int(r * (1 - inflection))
    step = (2 * r - 2 * first) / max(depth - 1, 1)
    return tuple(int(first + step * i) for i in range(depth))


def _from_list(r: list[Any], depth: int) -> tuple[int, ...]:
    if not all(_is_number(entry, Integral) for entry in r):
        raise InputError(f"r={reprlib.repr(r)}: a list has one integer for each block")
    if len(r) > depth:
        warn_user(f"r has {len(r)} entries for {depth} blocks; the last {len(r) - depth} are ignored")
    if len(r) < depth:
        warn_user(f"r has {len(r)} entries for {depth} blocks; the last {depth - len(r)} merge nothing")
    return tuple(max(0, int(entry)) for entry in (r + [0] * depth)[:depth])


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _target(share: float, of: Literal["flops", "tokens"]) -> Target:
    if not _is_number(share, Real) or not 0 < share <= 1:
        raise InputError(f"{of} is {share!r}; a share to leave is above 0 and at most 1")
    return Target(float(share), of)


@dataclass(frozen=True)
class Cost:
    """The multiply-adds of one block."""

    attention: int
    """Multiply-adds per token in attention."""
    mlp: int
    """Multiply-adds per token in the MLP."""
    pair: int
    """Multiply-adds per pair of tokens in attention."""

    def flops(self, before: int, after: int) -> int:
        """Return the multiply-adds of a block with ``before`` tokens in attention and ``after`` in the MLP."""
        return self.attention * before + self.pair * before * before + self.mlp * after


def solve(target: Target, tokens: int, prefix: int, depth: int, cost: Cost) -> tuple[int, ...]:
    """Return the number for each block that leaves the target's share, as closely as whole tokens allow.

    A share that is too small to reach gives the schedule that merges as much as possible.

    Args:
        target: The share to leave.
        tokens: Number of tokens before the first block.
        prefix: Number of special tokens among them.
        depth: Number of blocks.
        cost: The cost of a block.
    """
    low, high = 0.0, float(tokens)
    while high - low > 1 / depth**2:  # `spread` changes only at multiples of 1/1 to 1/depth: at most one is left
        middle = (low + high) / 2
        if _share_left(spread(middle, depth), target.of, tokens, prefix, cost) > target.share:
            low = middle
        else:
            high = middle
    lower, upper = spread(low, depth), spread(high, depth)
    short, over = (abs(_share_left(r, target.of, tokens, prefix, cost) - target.share) for r in (lower, upper))
    return lower if short <= over else upper


def reachable(target: Target, tokens: int, prefix: int, depth: int, cost: Cost) -> float:
    """Return the share that is left if every block merges as much as it can; the arguments are those of `solve`."""
    return _share_left((tokens,) * depth, target.of, tokens, prefix, cost)


def spread(r: float, depth: int) -> tuple[int, ...]:
    """Return one integer for each block, floor(r) or ceil(r), so that the first i of them add up to floor(i * r)."""
    return tuple(floor((i + 1) * r) - floor(i * r) for i in range(depth))


def token_counts(r: Sequence[int], tokens: int, prefix: int) -> list[int]:
    """Return the number of tokens before the first block and after each block.

    A block merges at most half of the tokens that are not special.
    """
    counts = [tokens]
    for entry in r:
        counts.append(counts[-1] - max(0, min(entry, (counts[-1] - prefix) // 2)))
    return counts


def _share_left(r: tuple[int, ...], of: str, tokens: int, prefix: int, cost: Cost) -> float:
    counts = token_counts(r, tokens, prefix)
    if of == "tokens":
        return (counts[-1] - prefix) / max(1, tokens - prefix)
    flops = sum(cost.flops(before, after) for before, after in itertools.pairwise(counts))
    return flops / (len(r) * cost.flops(tokens, tokens))
