"""Distances of pairs of images as integers, and how they rank.

Distances are 1 - Pearson correlation of rows. They become integers before they are ranked, 2^-29 apart where they were
computed in float64 and 2^-22 in float32: what rounding has split is tied again, and integers sort fast. They are made
some rows at a time, so that memory grows with N rather than N^2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from parc.scores.inputs import Array
from parc.scores.pca import standardize
from plm_core.errors import InputError

PRECISE = 1000
"""Up to so many images distances are in float64; beyond, in the features' own precision (within 3e-6 points)."""
ROWS = 256
"""Rows of the distance matrix that exist at a time."""
BUFFER = 2**22
"""Distances that are sorted at a time."""
RUN = 8
"""Shorter groups of ties within one buffer are not counted when there are several buffers (an error below 1e-9)."""
STEPS = {np.dtype(np.float64): 2.0**29, np.dtype(np.float32): 2.0**22}

Distances = Callable[[slice, slice], Array]
"""Rows and columns of a distance matrix to that block of it, int32."""


def correlated(x: Array, scaled: bool = True) -> Array:
    """Rows whose dot products are the Pearson correlations of x's, with columns standardized first if ``scaled``.

    A row that is constant becomes zeros, hence is uncorrelated with all.
    """
    x = x.astype(np.float64) if len(x) <= PRECISE else x
    z = standardize(x) if scaled else x.copy()
    sizes = np.einsum("ij,ij->i", z, z)
    z -= z.mean(axis=1, keepdims=True)
    return unit(z, sizes)


def unit(z: Array, sizes: Array | None = None) -> Array:
    """Rows brought to unit length in place; those that are rounding noise beside ``sizes`` (squared) become zeros."""
    squares = np.einsum("ij,ij->i", z, z)
    noise = 0 if sizes is None else sizes * (16 * np.finfo(z.dtype).eps) ** 2
    kept = squares > noise
    z *= np.where(kept, 1 / np.sqrt(np.where(kept, squares, 1)), 0).astype(z.dtype)[:, None]
    return z


def from_rows(z: Array) -> Distances:
    """Distances computed when they are asked for, from rows as `correlated` gives them."""

    def block(rows: slice, columns: slice) -> Array:
        dots, step = z[rows] @ z[columns].T, STEPS[z.dtype]
        dots *= -step
        dots += step
        return np.rint(dots, out=dots).astype(np.int32)

    return block


def from_matrix(matrix: Array) -> Distances:
    """Distances that exist already."""
    return lambda rows, columns: matrix[rows, columns]


def everything(distances: Distances, n: int) -> Array:
    """The whole matrix of distances, int32 [N, N]."""
    return distances(slice(0, n), slice(0, n))


# --- ranks of same-class pairs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """How the distances of same-class pairs rank among all."""

    pairs: int
    share: float
    """Of same-class pairs."""
    auc: float
    """How often a same-class pair is nearer than another one, ties half."""
    variance: float
    """Of the ranks of all distances, with ties."""

    @property
    def spearman(self) -> float:
        """Rank correlation of distances and "is of two classes"."""
        q = self.share
        return self.pairs * float(np.sqrt(q * (1 - q) / self.variance)) * (self.auc - 0.5)


def separate(distances: Distances, ordered: Array) -> Separation:
    """Rank same-class pairs among all, with the same-class distances and one buffer of others in memory.

    Args:
        distances: Of images sorted by class.
        ordered: Their classes, ascending.
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
    """Distances of all pairs of images [start, end), row-major, by blocks of rows."""
    for lo in range(start, end, ROWS):
        block = distances(slice(lo, min(lo + ROWS, end)), slice(lo, end))
        yield block[_later(*block.shape)]


@lru_cache(maxsize=16)
def _later(rows: int, columns: int) -> Array:
    """Where the column comes after the row; there are as many shapes as sizes of classes."""
    return np.logical_not(np.tri(rows, columns, dtype=np.bool_))


def _between(distances: Distances, bounds: list[int]) -> Iterator[Array]:
    """Distances of images to all images of later classes, as slices; a class is [bounds[i], bounds[i + 1])."""
    ends = np.repeat(bounds[1:], np.diff(bounds))
    for lo in range(0, bounds[-2], ROWS):
        hi = min(lo + ROWS, bounds[-2])
        first = int(ends[lo])
        block = distances(slice(lo, hi), slice(first, bounds[-1]))
        cuts = [lo, *(b for b in bounds if lo < b < hi), hi]
        for a, b in pairwise(cuts):
            yield block[a - lo : b - lo, ends[a] - first :]


def _buffered(blocks: Iterator[Array], size: int) -> Iterator[Array]:
    """The values of blocks [r, c] gathered into flat arrays of ``size``, the last one shorter; reuses its memory."""
    buffer, filled = np.empty(size, np.int32), 0
    for block in blocks:
        values = block.ravel()
        while len(values):
            taken = values[: size - filled]
            buffer[filled : filled + len(taken)] = taken
            filled, values = filled + len(taken), values[len(taken) :]
            if filled == size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _count_nearer(same: Array, other: Array) -> float:
    """In how many (same, other) the former is smaller, ties half; both are sorted, the shorter is looked up."""
    few, many = (same, other) if len(same) < len(other) else (other, same)
    below = (np.searchsorted(many, few, "left").sum() + np.searchsorted(many, few, "right").sum()) / 2
    return float(len(same) * len(other) - below if few is same else below)


def _runs(ordered: Array, least: int) -> tuple[Array, Array]:
    """Values that a sorted array holds at least so many times (2 or more), and how often."""
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    starts = np.flatnonzero(np.diff(repeated, prepend=repeated[:1] - 1))
    counts = np.diff(starts, append=len(repeated)) + 1
    kept = counts >= least
    return repeated[starts[kept]], counts[kept]


def _cubes(runs: list[tuple[Array, Array]]) -> float:
    """Sum of t^3 - t over groups of ties, given by their parts."""
    values, where = np.unique(np.concatenate([v for v, _ in runs]), return_inverse=True)
    t = np.bincount(where, np.concatenate([c for _, c in runs]), len(values))
    return float((t**3 - t).sum())


# --- ranks of all pairs ---------------------------------------------------------------------------------------------


def ranks(distances: Distances, n: int, name: str) -> Array:
    """Ranks of the distances of all pairs, ties averaged, centred and of unit length: float64 [N (N - 1) / 2]."""
    found = np.concatenate(list(_upper(distances, 0, n)))
    order = np.argsort(found)
    found = found[order]
    starts = np.flatnonzero(np.diff(found, prepend=found[:1] - 1))
    if len(starts) == 1:
        raise InputError(f"{name}: all pairs of images are equally far apart")
    counts = np.diff(starts, append=len(found))
    out = np.empty(len(found))
    out[order] = np.repeat(starts + (counts - 1) / 2, counts)
    out -= (len(out) - 1) / 2
    out /= np.linalg.norm(out)
    return out
