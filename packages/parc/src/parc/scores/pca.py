"""Reduction to fewer dimensions: principal components, exact or by the published recipe (section 5 of the paper)."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from parc.scores.inputs import Array
from parc.scores.linalg import centred, spectrum
from parc.scores.tensors import coordinates, on_accelerator
from plm_core.errors import InputError

# Seed and number of oversamples of the published recipe
SEED, OVERSAMPLES = 1919, 10
MAX_DIGITS = 9  # of a number of components


def reduced_on_device(features: Any, pca: int | str | None, clip: bool = False) -> Array | None:
    """Return `reduce` of features on an accelerator, computed there, as float64 or float32 [N, pca].

    Args:
        features: Features of any type, unchecked.
        pca: The reduction.
        clip: Whether fewer dimensions than it asks for are no error.

    Returns:
        None if the features are not on an accelerator, not plain, or the reduction is another one.
    """
    if pca is None or not on_accelerator(features) or features.ndim != 2:
        return None
    count, compat = parse_pca(pca)
    count = min(count, len(features), features.shape[1] if clip else count)
    if compat or count > features.shape[1]:
        return None
    rows = coordinates(features, count)
    return rows if rows is None or features.dtype.itemsize == rows.itemsize else rows.astype(np.float32)


def reduce(features: Array, pca: int | str | None) -> Array:
    """Return features in the basis of their first principal components.

    The published recipe approximates the exact components. Its single power iteration is far from converged, so the
    trailing components of ``"compat:32"`` are rotated at random, and PARC differs by up to 1.4 points. The largest
    entry of each direction is made positive. This matters because PARC centres over components and so depends on their
    signs.

    Args:
        features: [N, D], float32 or float64.
        pca: Number of components: ``32`` or ``"32"`` for an exact decomposition, ``"compat:32"`` for the recipe of the
            published numbers (randomised, with a fixed seed), None for the features unchanged. At most N components are
            kept. Components beyond the rank are zeros.

    Returns:
        [N, pca] in the dtype of the features, centred but not whitened.

    Raises:
        InputError: ``pca`` has another form, or is more than D.
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
    """Return the number of components in ``32``, ``"32"`` or ``"compat:32"``, and whether it is the published recipe.

    Raises:
        InputError: The value has another form, or the number is below 1.
    """
    text = str(pca)
    number = text.removeprefix("compat:")
    if isinstance(pca, bool) or not number.isdecimal() or len(number) > MAX_DIGITS or int(number) < 1:
        raise InputError(f"pca={reprlib.repr(pca)} is not allowed; a number from 1, 'compat:<number>' or None is")
    return int(number), text.startswith("compat:")


def clip_components(pca: int | str | None, dimensions: int) -> int | str | None:
    """Return the same reduction, with at most as many components as the features have dimensions."""
    if pca is None:
        return None
    count, compat = parse_pca(pca)
    if count <= dimensions:
        return pca
    return f"compat:{dimensions}" if compat else dimensions


def principal(features: Array, count: int | None = None) -> tuple[Array, Array]:
    """Return the first ``count`` principal components of features [N, D], or all of them.

    The computation uses the smaller of the two Gram matrices, in float64 (`parc.scores.linalg`). It is several times
    faster than a singular value decomposition, and exact down to components of 1e-5 of the largest.

    Returns:
        Coordinates of the images, float64 [N, count or min(N, D)], and the variances of these components (divided by
        N), largest first. Components beyond the rank are zeros.
    """
    x = centred(features)
    svd = spectrum(x)
    size = min(x.shape) if count is None else count
    kept = min(size, len(svd.values))
    coordinates, variances = np.zeros((len(x), size)), np.zeros(size)
    variances[:kept] = svd.values[:kept] / len(x)
    coordinates[:, :kept] = svd.coordinates[:, :kept]
    coordinates[:, :kept] *= _signs(coordinates[:, :kept].T @ x)
    return coordinates, variances


def _published(features: Array, count: int) -> Array:
    """Return randomised components: 10 oversamples, one power iteration, seed 1919, the wide matrix transposed."""
    x = features - features.mean(axis=0)
    m = x.T if len(x) < x.shape[1] else x
    omega = np.random.RandomState(SEED).normal(size=(m.shape[1], count + OVERSAMPLES)).astype(x.dtype)
    q = np.linalg.qr(m @ (m.T @ (m @ omega)))[0]
    u, s, vt = np.linalg.svd(q.T @ m, full_matrices=False)
    u = q @ u
    left, directions = (vt.T, u.T) if m is not x else (u, vt)
    return left[:, :count] * s[:count] * _signs(directions[:count])


def _signs(directions: Array) -> Array:
    """Return the sign of the largest entry of each row [K, D]."""
    largest = np.abs(directions).argmax(axis=1)
    signs: Array = np.where(directions[np.arange(len(directions)), largest] < 0, -1, 1).astype(directions.dtype)
    return signs
