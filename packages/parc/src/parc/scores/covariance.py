"""Scores from how the covariance within classes compares with that of all features: H-scores, LDA and TransRate.

All work in float64, count only the classes that occur, and do not see constant features.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from parc.scores.inputs import Array, features_of, labels_of
from parc.scores.linalg import centred, class_sums, classes, compact, ledoit_wolf, spectrum
from parc.scores.pca import standardize
from plm_core.errors import InputError


def hscore(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score (Bao et al. 2019; PARC paper, section 4): trace of cov(features)^-1 cov(class means), 0 to C - 1.

    On standardised features, in its exact thin form: the sum over classes of n_c |mean of U in class c|^2, U the left
    singular vectors. Where the rank is N - 1, as with at least N - 1 features in general position, the score is the
    constant C - 1 whatever the features are; that is warned about. `hscore_shrunk`, or ``pca=32``, tell models apart.

    Args:
        features: [N, D], any scale.
        labels: [N] integers.

    Raises:
        InputError: Bad input (`parc.scores.inputs`).
    """
    x, codes, counts = _inputs(features, labels)
    found = spectrum(standardize(x.astype(np.float64)))
    if len(found.values) >= len(x) - 1:
        warnings.warn(
            f"hscore is the constant C - 1 = {len(counts) - 1} whatever the features: {len(x)} images in {x.shape[1]} "
            "dimensions, and it needs more images than dimensions: reduce to fewer by pca, or use hscore-shrunk",
            stacklevel=2,
        )
    return float(np.sum(found.left_sums(codes, len(counts)) ** 2 / counts[:, None]))


def hscore_shrunk(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score with a shrunk covariance (Ibrahim et al. 2021): trace of S_a^-1 (1 - a) cov(class means).

    S_a = (1 - a) cov(features) + a m I with m the mean variance, and a as Ledoit and Wolf have it; worked out in the
    space of the images where D > N. Features are centred, not standardised: the score is the same under rotation and
    under one scale for all features. As a shrinks the class means too, whitened features (a = 1) score 0.

    Args:
        features: [N, D].
        labels: [N] integers.

    Raises:
        InputError: Bad input (`parc.scores.inputs`).
    """
    x, codes, counts = _inputs(features, labels)
    rows = compact(_unit(centred(x)))
    covariance = rows.T @ rows / len(x)
    shrinkage = ledoit_wolf(rows, len(x) * covariance, x.shape[1])
    means = class_sums(rows, codes, len(counts)) / counts[:, None]
    covariance *= 1 - shrinkage
    covariance[np.diag_indices_from(covariance)] += max(shrinkage, 1e-10) / x.shape[1]  # the trace is 1
    return float((1 - shrinkage) / len(x) * np.sum(counts @ _solve(covariance, means) ** 2))


def lda_loo(features: ArrayLike, labels: ArrayLike) -> float:
    """Percentage of images that linear discriminants of all other images put right.

    The pooled covariance within classes is shrunk as Ledoit and Wolf have it. For each image, its class loses it from
    its mean and from the scatter (a rank-one downdate); the ridge, n times the shrunk-to variance, is that of all
    images. So the result is that of N refits at one ridge, from one Cholesky decomposition. The priors are the shares
    of all images: without the image they would count against its own class, twofold where the class has two. The only
    image of a class counts as wrong, and equal discriminants go to the smallest label.

    Args:
        features: [N, D].
        labels: [N] integers.

    Raises:
        InputError: Bad input (`parc.scores.inputs`).
    """
    x, codes, counts = _inputs(features, labels)
    n, rows = len(x), np.arange(len(x))
    z, kept = _whitened(x, codes, counts)
    means = class_sums(z, codes, len(counts)) / counts[:, None]
    own = z - means[codes]
    # by class, with z for x: e = own, v = z - mean of the class; |v|^2 and e.v
    norms = np.einsum("ij,ij->i", z, z)
    far = norms[:, None] - 2 * z @ means.T + np.einsum("ij,ij->i", means, means)
    along = np.einsum("ij,ij->i", own, z)[:, None] - own @ means.T
    size = counts[codes]
    grown = size / np.maximum(size - 1, 1)  # (x - mean without x) / (x - mean)
    far[rows, codes] *= grown**2
    along[rows, codes] *= grown
    lost = kept * grown * (size > 1)  # what the scatter loses of e e^T
    left = np.maximum(1 - lost * np.einsum("ij,ij->i", own, own), 1e-12)  # positive but for rounding
    far += (lost / left)[:, None] * along**2
    far[rows[size == 1], codes[size == 1]] = np.inf  # without its image the class has no mean
    logits = np.log(counts) - (n - 1) / 2 * far
    return float(100 * np.mean(np.argmax(logits, 1) == codes))


def _whitened(x: Array, codes: Array, counts: Array) -> tuple[Array, float]:
    """Rows such that x_i A^-1 x_j is their inner product, A = (1 - a) scatter + ridge; and 1 - a."""
    rows = compact(_unit(centred(x)))
    own = rows - (class_sums(rows, codes, len(counts)) / counts[:, None])[codes]
    scatter = own.T @ own
    kept = 1 - ledoit_wolf(own, scatter, x.shape[1])
    # classes that are points have no scatter, and then the distance to their means decides
    ridge = max((1 - kept) * np.trace(scatter), 1e-10 * len(rows)) / x.shape[1]
    scatter *= kept
    scatter[np.diag_indices_from(scatter)] += ridge
    return _solve(scatter, rows), kept


def _solve(a: Array, rows: Array) -> Array:
    """Rows times L^-T, where a = L L^T."""
    lower = linalg.cholesky(a, lower=True, check_finite=False)
    return linalg.solve_triangular(lower, rows.T, lower=True, check_finite=False).T


def sfda(features: ArrayLike, labels: ArrayLike) -> float:
    """Self-challenging Fisher discriminants (SFDA, Shao et al. 2022): mean probability of the true class, 0 to 1.

    Discriminants with the covariance within classes shrunk by exp(-5 of its largest eigenvalue), at least 1e-10; every
    image is then moved towards the mean of the means of the other classes, by one minus its (twice softmaxed)
    probability; the discriminants of these images give the score. Depends on the scale of the features, as published.
    With as many dimensions as images the discriminants fit all images and the score is near 1: use ``pca``.

    The published code finds the eigenvalue by three power steps, which depend on the order of the features; here it
    is exact. Its eigenproblem of all D discriminants is the inverse of the covariance, which is what is used here.

    Args:
        features: [N, D].
        labels: [N] integers.

    Raises:
        InputError: Bad input (`parc.scores.inputs`).
    """
    x, codes, counts = _inputs(features, labels)
    rows = compact(centred(x))
    means, within = _within(rows, codes, counts)
    largest = linalg.eigvalsh(within, subset_by_index=[len(within) - 1] * 2, check_finite=False)[0]
    shrinkage = max(float(np.exp(-5 * largest)), 1e-10)
    soft = _softmax(_posterior(rows, means, within, counts, shrinkage, x.shape[1]))
    trust = np.take_along_axis(soft, codes[:, None], 1)
    others = (means.sum(0) - means) / (len(counts) - 1)
    mixed = trust * rows + (1 - trust) * others[codes]
    means, within = _within(mixed, codes, counts)
    posterior = _posterior(mixed, means, within, counts, shrinkage, x.shape[1])
    return float(np.take_along_axis(posterior, codes[:, None], 1).mean())


def _within(rows: Array, codes: Array, counts: Array) -> tuple[Array, Array]:
    """Means of the classes [C, D] and the covariance within them [D, D]."""
    means = class_sums(rows, codes, len(counts)) / counts[:, None]
    own = rows - means[codes]
    return means, own.T @ own / len(rows)


def _posterior(rows: Array, means: Array, within: Array, counts: Array, shrinkage: float, dims: int) -> Array:
    """Probabilities [N, C] of linear discriminants."""
    trace = max(np.trace(within), np.finfo(np.float64).tiny ** 0.5)
    shrunk = (1 - shrinkage) * within
    shrunk[np.diag_indices_from(shrunk)] += trace * max(shrinkage / dims, 1e-12)  # a matrix that can be inverted
    white, white_means = np.split(_solve(shrunk, np.concatenate([rows, means])), [len(rows)])
    logits = white @ white_means.T - np.einsum("ij,ij->i", white_means, white_means) / 2
    return _softmax(logits + np.log(counts))


def _softmax(logits: Array) -> Array:
    out: Array = np.exp(logits - logits.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True)


def gbc(features: ArrayLike, labels: ArrayLike, *, dims: int = 64, floor: float = 1e-3) -> float:
    """Gaussian Bhattacharyya coefficient (Pandy et al. 2022): minus the overlap of all pairs of classes, both orders.

    Every class is a Gaussian with diagonal covariance in the first ``dims`` principal components (fewer where there
    are fewer). A class's variance in a component is at least ``floor`` times that of all images: a class of one image
    would else have none. So the score is the same under rotation and one scale for all features.

    Args:
        features: [N, D].
        labels: [N] integers.
        dims: Components that are kept.
        floor: Share of a component's variance.

    Raises:
        InputError: Bad input (`parc.scores.inputs`), or dims or floor not positive.
    """
    if dims < 1 or not floor > 0:
        raise InputError(f"dims={dims} and floor={floor} must be positive")
    x, codes, counts = _inputs(features, labels)
    rows = spectrum(centred(x)).coordinates[:, :dims]
    means = class_sums(rows, codes, len(counts)) / counts[:, None]
    spread = class_sums((rows - means[codes]) ** 2, codes, len(counts)) / counts[:, None]
    spread = np.maximum(spread, floor * np.mean(rows**2, 0))
    logs = np.log(spread).sum(1)
    total = 0.0
    for i in range(len(counts) - 1):
        both = (spread[i] + spread[i + 1 :]) / 2
        distance = ((means[i] - means[i + 1 :]) ** 2 / both).sum(1) / 8
        distance += (np.log(both).sum(1) - (logs[i] + logs[i + 1 :]) / 2) / 2
        total += np.exp(-distance).sum()
    return float(-2 * total)


def transrate(features: ArrayLike, labels: ArrayLike, *, eps: float = 1e-4) -> float:
    """TransRate (Huang et al. 2022): coding rate of all features less that of the classes, in nats.

    R(Z) = 1/2 ln det(I + Z^T Z / (n eps)) of the n rows of Z; the classes' rates are averaged by their counts. Papers
    differ in the scale of Z, which decides what counts as noise: here Z is centred and scaled to a mean squared
    length of 1, so the score is the same under rotation and one scale for all features. With D near N or above it is
    ruled by how many directions the features fill, not by the classes: use ``pca``.

    Args:
        features: [N, D].
        labels: [N] integers.
        eps: Squared distortion, as a share of the mean squared length.

    Raises:
        InputError: Bad input (`parc.scores.inputs`), or eps not positive.
    """
    if not eps > 0:
        raise InputError(f"eps={eps} must be positive")
    x, codes, counts = _inputs(features, labels)
    z = _unit(centred(x))
    n, wide = len(z), len(z) <= z.shape[1]
    gram = z @ z.T if wide else z.T @ z
    total = _rate(gram, n * eps)[()]
    order, starts = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    for size in np.unique(counts):  # classes of one size in one go
        rows = order[starts[counts == size, None] + np.arange(size)]  # [classes, size]
        if wide:
            own = gram[rows[:, :, None], rows[:, None, :]]
        else:
            own = z[rows] if size <= z.shape[1] else z[rows].swapaxes(1, 2)
            own = own @ own.swapaxes(1, 2)
        total -= size / n * _rate(own, size * eps).sum()
    return float(total)


def _unit(z: Array) -> Array:
    """Rows with a mean squared length of 1; their largest entry goes first, so that squares neither vanish nor blow."""
    z = z / np.abs(z).max()
    return z * np.sqrt(len(z) / np.einsum("ij,ij->", z, z))


def _rate(gram: Array, scale: float) -> Array:
    """1/2 ln det(I + gram / scale) of gram [..., M, M]."""
    inner = gram / scale + np.eye(gram.shape[-1])
    return np.log(np.diagonal(np.linalg.cholesky(inner), axis1=-2, axis2=-1)).sum(-1)


def _inputs(features: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, Array]:
    """Features [N, D] that are not constant, codes [N] and counts [C] of the classes that occur."""
    x = features_of(features)
    codes, counts = classes(labels_of(labels, len(x)))
    varying = (x != x[:1]).any(0)
    return x if varying.all() else x[:, varying], codes, counts
