"""Fewer dimensions before a score: principal components, exact or by the published recipe (section 5 of the paper)."""

from __future__ import annotations

import numpy as np

from parc.scores.inputs import Array
from parc.scores.linalg import centred, spectrum
from plm_core.errors import InputError

COLUMNS = 256
"""Columns that are standardized at a time."""
SEED, OVERSAMPLES = 1919, 10
"""Of the published recipe."""


def reduce(features: Array, pca: int | str | None) -> Array:
    """Features in the basis of their first principal components.

    The exact form is what the recipe approximates: one power iteration is far from converged, so trailing components
    of ``"compat:32"`` are rotated at random, and PARC differs by up to 1.4 points. Signs are fixed by the largest entry
    of each direction, which matters: PARC centres over components and so depends on their signs.

    Args:
        features: [N, D], float32 or float64.
        pca: How many components, ``32`` (or ``"32"``) for an exact decomposition, ``"compat:32"`` for the recipe
            behind the published numbers (randomised, fixed seed), None for the features as they are. More than N is
            N; components beyond the rank are zeros.

    Returns:
        [N, pca] of the features' dtype, centred; not whitened.

    Raises:
        InputError: ``pca`` is of no such form, or more than D.
    """
    if pca is None:
        return features
    count, compat = parse_pca(pca)
    count = min(count, len(features))
    if count > features.shape[1]:
        raise InputError(f"pca={pca!r} asks for more than the {features.shape[1]} dimensions of the features")
    if compat:
        return _published(features, count)
    return principal(features, count)[0].astype(features.dtype)


def parse_pca(pca: int | str) -> tuple[int, bool]:
    """``32``, ``"32"`` or ``"compat:32"`` as a count and whether the published recipe is meant.

    Raises:
        InputError: Not of that form, or less than 1.
    """
    text = str(pca)
    number = text.removeprefix("compat:")
    if isinstance(pca, bool) or not number.isdecimal() or int(number) < 1:
        raise InputError(f"pca={pca!r} is not allowed; a number from 1, 'compat:<number>' or None is")
    return int(number), text.startswith("compat:")


def clip_components(pca: int | str | None, dimensions: int) -> int | str | None:
    """The reduction that was asked for, or as many components as there are dimensions."""
    if pca is None:
        return None
    count, compat = parse_pca(pca)
    if count <= dimensions:
        return pca
    return f"compat:{dimensions}" if compat else dimensions


def principal(features: Array, count: int | None = None) -> tuple[Array, Array]:
    """The first ``count`` principal components of features [N, D], or all.

    Taken from the smaller of the two Gram matrices, in float64 (`parc.scores.linalg`), several times faster than a
    singular value decomposition and exact down to components of 1e-5 of the largest.

    Returns:
        Scores of the images, float64 [N, count or min(N, D)], and the variances of as many components (divided by N),
        largest first. Components beyond the rank are zeros.
    """
    x = centred(features)
    found = spectrum(x)
    size = min(x.shape) if count is None else count
    kept = min(size, len(found.values))
    scores, variances = np.zeros((len(x), size)), np.zeros(size)
    variances[:kept] = found.values[:kept] / len(x)
    scores[:, :kept] = found.coordinates[:, :kept]
    scores[:, :kept] *= _signs(scores[:, :kept].T @ x)
    return scores, variances


def standardize(features: Array) -> Array:
    """Each dimension to mean 0 and population standard deviation 1; one that is constant becomes zeros.

    Computed in float64 (some columns at a time, which keeps the copy small) and returned in the features' dtype; the
    input is not changed.
    """
    n, d = features.shape
    out = np.empty_like(features)
    for start in range(0, d, COLUMNS):
        x = features[:, start : start + COLUMNS].astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        variance = np.einsum("ij,ij->j", x, x) / n
        constant = variance <= (n * np.finfo(np.float64).eps * mean) ** 2  # what rounding leaves of a constant
        x *= np.where(constant, 0, 1 / np.sqrt(np.where(constant, 1, variance)))
        out[:, start : start + COLUMNS] = x
    return out


def _published(features: Array, count: int) -> Array:
    """Randomised components: 10 oversamples, one power iteration, seed 1919, the wide matrix transposed."""
    x = features - features.mean(axis=0)
    m = x.T if len(x) < x.shape[1] else x
    omega = np.random.RandomState(SEED).normal(size=(m.shape[1], count + OVERSAMPLES)).astype(x.dtype)
    q = np.linalg.qr(m @ (m.T @ (m @ omega)))[0]
    u, s, vt = np.linalg.svd(q.T @ m, full_matrices=False)
    u = q @ u
    left, directions = (vt.T, u.T) if m is not x else (u, vt)
    return left[:, :count] * s[:count] * _signs(directions[:count])


def _signs(directions: Array) -> Array:
    """The sign of the largest entry of each row [K, D]."""
    largest = np.abs(directions).argmax(axis=1)
    signs: Array = np.where(directions[np.arange(len(directions)), largest] < 0, -1, 1).astype(directions.dtype)
    return signs
