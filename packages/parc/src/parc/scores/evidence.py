"""LogME: the evidence of Bayesian linear regression of the targets on the features (arXiv 2102.11005, 2110.10545)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from parc.scores.inputs import Array, features_of, labels_of
from parc.scores.linalg import classes, one_hot, spectrum

STEPS, TOLERANCE = 11, 1e-3
"""At most so many steps, and the relative change of a / b that ends them, of the published code."""
STABLE = 1e-5
"""What the published code adds to a denominator."""


class Evidence(NamedTuple):
    """Of every column of the targets, [T]."""

    log: Array
    """Log evidence per image, natural logarithm."""
    prior: Array
    """a, the precision of the weights."""
    noise: Array
    """b, the precision of the noise."""


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """LogME: mean over classes (or over columns of targets) of the log evidence per image at the best prior and noise.

    Features are taken as they are, neither centred nor scaled, as published. One decomposition serves all classes,
    whose fixed-point steps go in parallel. The rank k of the features counts where the second published version has
    their dimension D: its extra (D - k) / 2 ln a is no part of the evidence, and for D > N it decides the score.
    Classes that do not occur do not count (as published, those below the highest label do), so renaming classes
    changes nothing. Eleven steps, as published, may stop short of the best prior where D > N: the evidence is then a
    little low.

    Args:
        features: [N, D].
        labels: [N] integers; zeros and ones [N, C], or floats [N] or [N, T], whose columns count one by one,
            but for those that are constant.

    Raises:
        InputError: Bad input (`parc.scores.inputs`).
    """
    x = features_of(features).astype(np.float64)
    return float(
        evidence(x, targets_of(labels_of(labels, len(x), kinds=("classes", "multilabel", "regression")))).log.mean()
    )


def targets_of(labels: Array) -> Array:
    """Columns [N, T] float64 of checked labels: one-hot in the classes that occur, or what came less constants."""
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        codes, counts = classes(labels)
        return one_hot(codes, len(counts))
    columns = labels.reshape(len(labels), -1)
    return columns[:, (columns != columns[:1]).any(0)]


def evidence(x: Array, targets: Array, steps: int = STEPS, tolerance: float = TOLERANCE) -> Evidence:
    """The evidence of each column of targets [N, T] on x [N, D], both float64, by MacKay's fixed point.

    With sigma the k eigenvalues of x^T x, c the targets in their basis, r the targets' part outside of it: a and b are
    set, from 1 and 1, to what maximises the evidence for the effective number of weights g at the last a and b.
    """
    n, count = targets.shape
    found = spectrum(x)
    sigma, k = found.values[:, None], len(found.values)
    squares = found.left_times(targets) ** 2
    rest = np.maximum((targets**2).sum(0) - squares.sum(0), 0)  # [T]
    prior, noise, moving = np.ones(count), np.ones(count), np.ones(count, bool)
    tiny = np.finfo(np.float64).tiny
    lengths, residuals = np.zeros(count), np.zeros(count)
    for _ in range(steps):
        ratio = prior[moving] / noise[moving]
        lost, kept = ratio / (sigma + ratio), sigma / (sigma + ratio)  # [K, T], what the prior takes of each direction
        lengths[moving] = np.sum(squares[:, moving] / sigma * kept**2, 0)
        residuals[moving] = np.sum(squares[:, moving] * lost**2, 0) + rest[moving]
        prior[moving] = np.maximum(kept.sum(0) / (lengths[moving] + STABLE), tiny)
        noise[moving] = np.maximum((n - k + lost.sum(0)) / (residuals[moving] + STABLE), tiny)
        moving[moving] = np.abs(prior[moving] / noise[moving] - ratio) / ratio > tolerance
        if not moving.any():
            break
    log = k * np.log(prior) + n * np.log(noise) - np.log(prior + noise * sigma).sum(0) - n * np.log(2 * np.pi)
    return Evidence((log - noise * residuals - prior * lengths) / (2 * n), prior, noise)
