"""Scores that compare the covariance within classes with that of all features: H-scores, LDA, SFDA, GBC, TransRate.

All of them work in float64, use only the classes that occur, and ignore constant features.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from parc.scores.inputs import Array, features_of, labels_of
from parc.scores.linalg import centred, class_sums, classes, compact, ledoit_wolf, spectrum, standardize
from plm_core.errors import InputError


def hscore(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute the H-score (Bao et al. 2019; PARC paper, section 4): trace of cov(features)^-1 cov(class means).

    The features are standardized. The exact thin form is computed: the sum over classes of n_c |mean of U in class
    c|^2, where U are the left singular vectors. The result is between 0 and C - 1. If the rank is N - 1, as with N - 1
    or more features in general position, the score is the constant C - 1 for any features, and a warning says so.
    `hscore_shrunk` or ``pca=32`` can then tell models apart.

    Args:
        features: [N, D], any scale.
        labels: [N] integers.

    Raises:
        InputError: The features or labels are not allowed.
    """
    x, codes, counts = _inputs(features, labels)
    svd = spectrum(standardize(x.astype(np.float64)))
    _warn_if_full(len(svd.values), x, f"hscore is the constant C - 1 = {len(counts) - 1} for any features")
    return float(np.sum(svd.left_sums(codes, len(counts)) ** 2 / counts[:, None]))


def hscore_shrunk(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute the H-score with a shrunk covariance (Ibrahim et al. 2021): trace of S_a^-1 (1 - a) cov(class means).

    S_a = (1 - a) cov(features) + a m I, where m is the mean variance and a the shrinkage of Ledoit and Wolf. If D > N,
    the computation runs in the space of the images. Features are centred, not standardized, so a rotation or a common
    scale of all features does not change the score. The shrinkage applies to the class means too, so whitened features
    (a = 1) score 0.

    Args:
        features: [N, D].
        labels: [N] integers.

    Raises:
        InputError: The features or labels are not allowed.
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
    """Compute the leave-one-out accuracy in percent of linear discriminants.

    The pooled covariance within classes is shrunk by the method of Ledoit and Wolf. Each image is left out of the mean
    of its class and of the scatter (a rank-one downdate). The ridge, n times the target variance of the shrinkage, is
    that of all images. The result is that of N refits at one ridge, from one Cholesky decomposition. The priors are the
    shares of all images. Without the image they would count against its own class, twice as much if the class has two
    images. The only image of a class counts as wrong. Of equal discriminants the one with the smallest label wins.

    Args:
        features: [N, D].
        labels: [N] integers.

    Raises:
        InputError: The features or labels are not allowed.
    """
    x, codes, counts = _inputs(features, labels)
    n, rows = len(x), np.arange(len(x))
    z, kept = _whitened(x, codes, counts)
    means = class_sums(z, codes, len(counts)) / counts[:, None]
    own = z - means[codes]
    # for each image and class: |v|^2 and e.v, where e = own and v = z - mean of the class
    norms = np.einsum("ij,ij->i", z, z)
    far = norms[:, None] - 2 * z @ means.T + np.einsum("ij,ij->i", means, means)
    along = np.einsum("ij,ij->i", own, z)[:, None] - own @ means.T
    size = counts[codes]
    grown = size / np.maximum(size - 1, 1)  # (x - mean without x) / (x - mean)
    far[rows, codes] *= grown**2
    along[rows, codes] *= grown
    lost = kept * grown * (size > 1)  # the scatter without the image has this much less of e e^T
    remaining = np.maximum(1 - lost * np.einsum("ij,ij->i", own, own), 1e-12)  # positive except for rounding
    far += (lost / remaining)[:, None] * along**2
    far[rows[size == 1], codes[size == 1]] = np.inf  # without its only image the class has no mean
    logits = np.log(counts) - (n - 1) / 2 * far
    return float(100 * np.mean(np.argmax(logits, 1) == codes))


def _whitened(x: Array, codes: Array, counts: Array) -> tuple[Array, float]:
    """Return rows whose inner products are x_i A^-1 x_j, where A = (1 - a) scatter + ridge, and 1 - a."""
    rows = compact(_unit(centred(x)))
    own = rows - (class_sums(rows, codes, len(counts)) / counts[:, None])[codes]
    scatter = own.T @ own
    kept = 1 - ledoit_wolf(own, scatter, x.shape[1])
    # if every class is a single point, there is no scatter, and the distance to the class means decides
    ridge = max((1 - kept) * np.trace(scatter), 1e-10 * len(rows)) / x.shape[1]
    scatter *= kept
    scatter[np.diag_indices_from(scatter)] += ridge
    return _solve(scatter, rows), kept


def _solve(a: Array, rows: Array) -> Array:
    """Return the rows times L^-T, where a = L L^T."""
    lower = linalg.cholesky(a, lower=True, check_finite=False)
    return linalg.solve_triangular(lower, rows.T, lower=True, check_finite=False).T


def sfda(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute SFDA, self-challenging Fisher discriminants (Shao et al. 2022): the mean probability of the true class.

    The score is between 0 and 1. The first discriminants use the covariance within classes, shrunk by exp(-5 times its
    largest eigenvalue), at least 1e-10. Every image is then moved towards the mean of the means of the other classes,
    by one minus its (twice softmaxed) probability. The discriminants of the moved images give the score. It depends on
    the scale of the features, as published. With as many dimensions as images the discriminants fit all images and the
    score is near 1, and a warning says so: use ``pca``.

    The published code finds the eigenvalue by three power steps, which depend on the order of the features. Here it is
    exact. The published eigenproblem of all D discriminants amounts to the inverse of the covariance, which is used
    here.

    Args:
        features: [N, D].
        labels: [N] integers.

    Raises:
        InputError: The features or labels are not allowed.
    """
    x, codes, counts = _inputs(features, labels)
    rows = compact(centred(x))
    _warn_if_full(rows.shape[1], x, "sfda is near 1 for any features that are not small")
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
    """Return the means of the classes [C, D] and the covariance within them [D, D]."""
    means = class_sums(rows, codes, len(counts)) / counts[:, None]
    own = rows - means[codes]
    return means, own.T @ own / len(rows)


def _posterior(rows: Array, means: Array, within: Array, counts: Array, shrinkage: float, dims: int) -> Array:
    """Return the class probabilities [N, C] of linear discriminants."""
    trace = max(np.trace(within), np.finfo(np.float64).tiny ** 0.5)
    shrunk = (1 - shrinkage) * within
    shrunk[np.diag_indices_from(shrunk)] += trace * max(shrinkage / dims, 1e-12)  # keeps the matrix invertible
    white, white_means = np.split(_solve(shrunk, np.concatenate([rows, means])), [len(rows)])
    logits = white @ white_means.T - np.einsum("ij,ij->i", white_means, white_means) / 2
    return _softmax(logits + np.log(counts))


def _softmax(logits: Array) -> Array:
    out: Array = np.exp(logits - logits.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True)


def gbc(features: ArrayLike, labels: ArrayLike, *, dims: int = 64, floor: float = 1e-3) -> float:
    """Compute the Gaussian Bhattacharyya coefficient (Pandy et al. 2022): minus the overlap of all pairs of classes.

    Each pair counts in both orders. Every class is a Gaussian with a diagonal covariance in the first ``dims``
    principal components, or in all of them if there are fewer. The variance of a class in a component is at least
    ``floor`` times that of all images, because a class with one image would have none. A rotation or a common scale of
    all features does not change the score.

    Args:
        features: [N, D].
        labels: [N] integers.
        dims: Number of components that are kept.
        floor: Smallest variance of a class, as a share of the component's variance.

    Raises:
        InputError: The features or labels are not allowed, or dims or floor is not positive.
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
    """Compute TransRate (Huang et al. 2022): the coding rate of all features minus that of the classes, in nats.

    The rate of n rows Z is R(Z) = 1/2 ln det(I + Z^T Z / (n eps)). The rates of the classes are averaged, weighted by
    their counts. Papers differ in the scale of Z, which decides how much counts as noise. Here Z is centred and scaled
    to a mean squared length of 1, so a rotation or a common scale of all features does not change the score. If D is
    near N or larger, the score depends on the number of directions that the features fill, not on the classes, and a
    warning says so: use ``pca``.

    Args:
        features: [N, D].
        labels: [N] integers.
        eps: Squared distortion, as a share of the mean squared length.

    Raises:
        InputError: The features or labels are not allowed, or eps is not positive.
    """
    if not eps > 0:
        raise InputError(f"eps={eps} must be positive")
    x, codes, counts = _inputs(features, labels)
    z = compact(_unit(centred(x)))
    _warn_if_full(z.shape[1], x, "transrate hardly depends on the classes")
    n, wide = len(z), len(z) <= z.shape[1]
    gram = z @ z.T if wide else z.T @ z
    total = _rate(gram, n * eps)[()]
    order, starts = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    for size in np.unique(counts):  # all classes of one size at once
        rows = order[starts[counts == size, None] + np.arange(size)]  # [classes, size]
        if wide:
            own = gram[rows[:, :, None], rows[:, None, :]]
        else:
            own = z[rows] if size <= z.shape[1] else z[rows].swapaxes(1, 2)
            own = own @ own.swapaxes(1, 2)
        total -= size / n * _rate(own, size * eps).sum()
    return float(total)


def _warn_if_full(dimensions: int, x: Array, what: str) -> None:
    """Warn that features of so many dimensions leave no room for N images, so that every labelling fits them."""
    if dimensions >= len(x) - 1:
        warnings.warn(
            f"{what}: {len(x)} images in {x.shape[1]} dimensions, but it needs more images than dimensions; reduce the "
            "dimensions by pca, or use hscore-shrunk or lda-loo",
            stacklevel=3,
        )


def _unit(z: Array) -> Array:
    """Scale rows to a mean squared length of 1."""
    z = z / np.abs(z).max()  # keeps the squares from underflow and overflow
    return z * np.sqrt(len(z) / np.einsum("ij,ij->", z, z))


def _rate(gram: Array, scale: float) -> Array:
    """Return 1/2 ln det(I + gram / scale) for gram [..., M, M]."""
    inner = gram / scale + np.eye(gram.shape[-1])
    return np.log(np.diagonal(np.linalg.cholesky(inner), axis1=-2, axis2=-1)).sum(-1)


def _inputs(features: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, Array]:
    """Return the features [N, D] that are not constant, and the codes [N] and counts [C] of the classes that occur."""
    x = features_of(features)
    codes, counts = classes(labels_of(labels, len(x)))
    varying = (x != x[:1]).any(0)
    return x if varying.all() else x[:, varying], codes, counts
