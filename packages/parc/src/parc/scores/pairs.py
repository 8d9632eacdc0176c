"""Distances of pairs of images as integers, and their ranks.

A distance is 1 - Pearson correlation of two rows. Distances are rounded to integers before they are ranked, in steps of
2^-29 if they were computed in float64 and of 2^-22 in float32. Ties that rounding errors have split are ties again, and
integers sort fast. Only some rows of the distance matrix exist at a time, so memory grows with N rather than N^2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from parc.scores.inputs import Array
from parc.scores.linalg import standardize
from plm_core.errors import InputError

PRECISE = 1000
"""Number of images up to which distances are computed in float64. Beyond, the features' own precision is used (within
3e-6 points)."""
ROWS = 256
"""Number of rows of the distance matrix that exist at a time."""
BUFFER = 2**22
"""Number of distances that are sorted at a time."""
RUN = 8
"""If there are several buffers, groups of ties with fewer distances in one buffer are not counted (an error below
1e-9)."""
STEPS = {np.dtype(np.float64): 2.0**29, np.dtype(np.float32): 2.0**22}

Distances = Callable[[slice, slice], Array]
"""A function from rows and columns of a distance matrix to that block of it, int32."""


def correlated(x: Array, scaled: bool = True) -> Array:
    """Return rows whose dot products are the Pearson correlations of the rows of x.

    The columns are standardized first if ``scaled``. A constant row becomes zeros, so it is uncorrelated with all rows.
    """
    x = x.astype(np.float64) if len(x) <= PRECISE else x
    z = standardize(x) if scaled else x.copy()
    sizes = np.einsum("ij,ij->i", z, z)
    z -= z.mean(axis=1, keepdims=True)
    return unit_rows(z, sizes)


def unit_rows(z: Array, sizes: Array | None = None) -> Array:
    """Scale rows to unit length, in place. Rows that are rounding noise beside their squared ``sizes`` become zeros."""
    squares = np.einsum("ij,ij->i", z, z)
    noise = 0 if sizes is None else sizes * (16 * np.finfo(z.dtype).eps) ** 2
    kept = squares > noise
    z *= np.where(kept, 1 / np.sqrt(np.where(kept, squares, 1)), 0).astype(z.dtype)[:, None]
    return z


def from_rows(z: Array) -> Distances:
    """Return distances that are computed on demand, from the rows that `correlated` returns."""

    def block(rows: slice, columns: slice) -> Array:
        dots, step = z[rows] @ z[columns].T, STEPS[z.dtype]
        dots *= -step
        dots += step
        return np.rint(dots, out=dots).astype(np.int32)

    return block


def from_matrix(matrix: Array) -> Distances:
    """Return the distances of a matrix that exists already."""
    return lambda rows, columns: matrix[rows, columns]


def whole_matrix(distances: Distances, n: int) -> Array:
    """Return the whole matrix of distances, int32 [N, N]."""
    return distances(slice(0, n), slice(0, n))


@dataclass(frozen=True)
class Separation:
    """The ranks of same-class distances among all distances, summarized."""

    pairs: int
    """Number of pairs."""
    share: float
    """Share of the pairs that are of the same class."""
    auc: float
    """Share of (same-class pair, other pair) in which the former is nearer; ties count half."""
    variance: float
    """Variance of the ranks of all distances, with ties."""

    @property
    def spearman(self) -> float:
        """Rank correlation of the distances with "the pair is of two classes"."""
        q = self.share
        return self.pairs * float(np.sqrt(q * (1 - q) / self.variance)) * (self.auc - 0.5)


def separate(distances: Distances, ordered: Array) -> Separation:
    """Rank same-class pairs among all pairs, with the same-class distances and one buffer of others in memory.

    Args:
        distances: Distances of images that are sorted by class.
        ordered: Classes of the images, ascending.

    Raises:
        InputError: No two images share a class, or all distances are equal.
    """
    n = len(ordered)
    bounds = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), n]
    within = [block for start, end in pairwise(bounds) for block in _upper(distances, start, end)]
    same = np.concatenate([*within, np.zeros(0, np.int32)])
    m, pairs = len(same), n * (n - 1) // 2
    if not m:
        raise InputError("labels has no two images of one class; PARC compares such pairs with the others")
    same.sort()
    single = pairs - m <= BUFFER
    nearer, runs = 0.0, [] if single else [_runs(same, RUN)]
    for block in _buffered(_between(distances, bounds), min(BUFFER, pairs - m)):
        block.sort()
        nearer += _count_nearer(same, block)
        runs.append(_runs(np.sort(np.concatenate([same, block])), 2) if single else _runs(block, RUN))
    variance = (pairs * pairs - 1) / 12 - _cubes(runs) / (12 * pairs)
    if variance <= 1e-9 * pairs * pairs:
        raise InputError("features: all pairs of images are equally far apart")
    return Separation(pairs, m / pairs, nearer / (m * (pairs - m)), variance)


def _upper(distances: Distances, start: int, end: int) -> Iterator[Array]:
    """Yield the distances of all pairs of images [start, end), row-major, by blocks of rows."""
    for lo in range(start, end, ROWS):
        block = distances(slice(lo, min(lo + ROWS, end)), slice(lo, end))
        yield block[_later(*block.shape)]


@lru_cache(maxsize=16)
def _later(rows: int, columns: int) -> Array:
    """Return a mask of the cells whose column comes after their row. There are as many shapes as sizes of classes."""
    return np.logical_not(np.tri(rows, columns, dtype=np.bool_))


def _between(distances: Distances, bounds: list[int]) -> Iterator[Array]:
    """Yield the distances of images to all images of later classes. A class is [bounds[i], bounds[i + 1])."""
    ends = np.repeat(bounds[1:], np.diff(bounds))
    for lo in range(0, bounds[-2], ROWS):
        hi = min(lo + ROWS, bounds[-2])
        first = int(ends[lo])
        block = distances(slice(lo, hi), slice(first, bounds[-1]))
        cuts = [lo, *(b for b in bounds if lo < b < hi), hi]
        for a, b in pairwise(cuts):
            yield block[a - lo : b - lo, ends[a] - first :]


def _buffered(blocks: Iterator[Array], size: int) -> Iterator[Array]:
    """Yield the values of blocks [r, c] in flat arrays of ``size``, the last one shorter. All share one memory."""
    buffer, filled = np.empty(size, np.int32), 0
    for block in blocks:
        values = block.ravel()
        while len(values):
            part = values[: size - filled]
            buffer[filled : filled + len(part)] = part
            filled, values = filled + len(part), values[len(part) :]
            if filled == size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _count_nearer(same: Array, other: Array) -> float:
    """Count the pairs (same, other) in which the former is smaller, ties as half. Both arrays are sorted."""
    # the values of the shorter array are looked up in the longer one
    few, many = (same, other) if len(same) < len(other) else (other, same)
    below = (np.searchsorted(many, few, "left").sum() + np.searchsorted(many, few, "right").sum()) / 2
    return float(len(same) * len(other) - below if few is same else below)


def _runs(ordered: Array, least: int) -> tuple[Array, Array]:
    """Return the values that a sorted array holds at least ``least`` times (2 or more), and their counts."""
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    starts = np.flatnonzero(np.diff(repeated, prepend=repeated[:1] - 1))
    counts = np.diff(starts, append=len(repeated)) + 1
    kept = counts >= least
    return repeated[starts[kept]], counts[kept]


def _cubes(runs: list[tuple[Array, Array]]) -> float:
    """Return the sum of t^3 - t over groups of ties, whose parts are spread over the runs."""
    values, group = np.unique(np.concatenate([v for v, _ in runs]), return_inverse=True)
    t = np.bincount(group, np.concatenate([c for _, c in runs]), len(values))
    return float((t**3 - t).sum())


def ranks(distances: Distances, n: int, name: str) -> Array:
    """Rank the distances of all pairs, ties averaged, centred and scaled to unit length: float64 [N (N - 1) / 2]."""
    values = np.concatenate(list(_upper(distances, 0, n)))
    order = np.argsort(values)
    values = values[order]
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    if len(starts) == 1:
        raise InputError(f"{name}: all pairs of images are equally far apart")
    counts = np.diff(starts, append=len(values))
    out = np.empty(len(values))
    out[order] = np.repeat(starts + (counts - 1) / 2, counts)
    out -= (len(out) - 1) / 2
    out /= np.linalg.norm(out)
    return out
