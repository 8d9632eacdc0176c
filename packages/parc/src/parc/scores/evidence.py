"""LogME: the evidence of Bayesian linear regression of the targets on the features (arXiv 2102.11005, 2110.10545)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from parc.scores.inputs import Array, features_of, labels_of
from parc.scores.linalg import classes, one_hot, spectrum

# Largest number of steps, and the relative change of a / b that ends them, as in the published code
STEPS, TOLERANCE = 11, 1e-3
STABLE = 1e-5
"""Number that the published code adds to denominators."""


class Evidence(NamedTuple):
    """The evidence of every column of the targets, [T], and the precisions that it belongs to."""

    log: Array
    """Log evidence per image, natural logarithm."""
    prior: Array
    """The precision a of the weights."""
    noise: Array
    """The precision b of the noise."""


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute LogME: the log evidence per image at the best prior and noise, averaged over classes or target columns.

    Features are neither centred nor scaled, as published. One decomposition serves all classes, whose fixed-point steps
    run in parallel. The rank k of the features is used where the second published version has their dimension D. The
    extra term (D - k) / 2 ln a is no part of the evidence, and for D > N it would decide the score. Classes that do not
    occur do not count (as published, those below the highest label do), so renaming classes changes nothing. For D > N
    the published number of eleven steps may stop short of the best prior. The evidence is then a little low.

    Args:
        features: [N, D].
        labels: [N] integers; zeros and ones [N, C], or floats [N] or [N, T], whose columns count one by one, except for
            constant columns.

    Raises:
        InputError: The features or labels are not allowed.
    """
    x = features_of(features).astype(np.float64)
    targets = targets_of(labels_of(labels, len(x), kinds=("classes", "multilabel", "regression")))
    return float(evidence(x, targets).log.mean())


def targets_of(labels: Array) -> Array:
    """Return checked labels as columns [N, T] float64: one-hot classes, or the labels without constant columns."""
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        codes, counts = classes(labels)
        return one_hot(codes, len(counts))
    columns = labels.reshape(len(labels), -1)
    return columns[:, (columns != columns[:1]).any(0)]


def evidence(x: Array, targets: Array, steps: int = STEPS, tolerance: float = TOLERANCE) -> Evidence:
    """Compute the evidence of each column of targets [N, T] on x [N, D], both float64, by MacKay's fixed point.

    The k eigenvalues of x^T x are sigma. The squares of the targets in their basis are ``squares``, and ``rest`` is the
    part of the targets outside the basis. Starting from 1 and 1, each step sets a and b to the values that maximise the
    evidence for the effective number of weights at the previous a and b.
    """
    n, count = targets.shape
    svd = spectrum(x)
    sigma, k = svd.values[:, None], len(svd.values)
    squares = svd.left_times(targets) ** 2
    rest = np.maximum((targets**2).sum(0) - squares.sum(0), 0)  # [T]
    prior, noise, moving = np.ones(count), np.ones(count), np.ones(count, bool)
    tiny = np.finfo(np.float64).tiny
    lengths, residuals = np.zeros(count), np.zeros(count)
    for _ in range(steps):
        ratio = prior[moving] / noise[moving]
        lost, kept = ratio / (sigma + ratio), sigma / (sigma + ratio)  # [K, T]: removed and kept by the prior
        lengths[moving] = np.sum(squares[:, moving] / sigma * kept**2, 0)
        residuals[moving] = np.sum(squares[:, moving] * lost**2, 0) + rest[moving]
        prior[moving] = np.maximum(kept.sum(0) / (lengths[moving] + STABLE), tiny)
        noise[moving] = np.maximum((n - k + lost.sum(0)) / (residuals[moving] + STABLE), tiny)
        moving[moving] = np.abs(prior[moving] / noise[moving] - ratio) / ratio > tolerance
        if not moving.any():
            break
    log = k * np.log(prior) + n * np.log(noise) - np.log(prior + noise * sigma).sum(0) - n * np.log(2 * np.pi)
    return Evidence((log - noise * residuals - prior * lengths) / (2 * n), prior, noise)
