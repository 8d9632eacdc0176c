"""Linear algebra that several scores share: the thin SVD, standardization, rotations, sums over classes, shrinkage.

The SVD goes through the smaller of the two Gram matrices, in float64. For 500 images with 2048 features these are the
eigenvectors of a 500 x 500 matrix. The method loses singular values below 1e-5 of the largest. They are dropped from
the rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg, sparse

from parc.scores.inputs import Array

CUTOFF = 1e-10
"""Eigenvalues of a Gram matrix below this share of the largest are rounding errors of zeros."""
COLUMNS = 256
"""Number of columns that are standardized at a time."""


@dataclass(frozen=True)
class Spectrum:
    """The thin SVD X = U S V^T of X [N, D] with rank K. Eigenvalues are those of X^T X, largest first."""

    x: Array
    values: Array
    """[K], the squared singular values."""
    _vectors: Array
    """V [D, K] if D < N, else U [N, K]."""

    @property
    def _wide(self) -> bool:
        return self.x.shape[0] <= self.x.shape[1]

    @cached_property
    def left(self) -> Array:
        """U, [N, K]."""
        return self._vectors if self._wide else (self.x @ self._vectors) / np.sqrt(self.values)

    @property
    def coordinates(self) -> Array:
        """U S, [N, K]: the rows of X in the basis V, which keeps all inner products between rows."""
        return self._vectors * np.sqrt(self.values) if self._wide else self.x @ self._vectors

    def left_sums(self, codes: Array, count: int) -> Array:
        """Return the rows of U summed by class, [C, K], for the class codes [N]."""
        if self._wide:
            return class_sums(self._vectors, codes, count)
        return (class_sums(self.x, codes, count) @ self._vectors) / np.sqrt(self.values)

    def left_times(self, targets: Array) -> Array:
        """Return U^T T, [K, M], for targets T [N, M]."""
        if self._wide:
            return self._vectors.T @ targets
        return (self._vectors.T @ (self.x.T @ targets)) / np.sqrt(self.values)[:, None]


def spectrum(x: Array) -> Spectrum:
    """Compute the thin SVD of x [N, D] float64. The rows are not centred."""
    wide = x.shape[0] <= x.shape[1]
    values, vectors = linalg.eigh(x @ x.T if wide else x.T @ x, overwrite_a=True, check_finite=False, driver="evd")
    rank = int(np.count_nonzero(values > CUTOFF * values[-1])) if values[-1] > 0 else 0
    return Spectrum(x, values[::-1][:rank], vectors[:, ::-1][:, :rank])


def centred(x: Array) -> Array:
    """Return x minus its column means, in float64. The input is not changed."""
    out = x.astype(np.float64)
    out -= out.mean(0)
    return out


def standardize(features: Array) -> Array:
    """Scale each dimension to mean 0 and population standard deviation 1. A constant dimension becomes zeros.

    The computation runs in float64 on some columns at a time, which keeps the copy small. The result has the dtype of
    the features, and the input is not changed.
    """
    n, d = features.shape
    out = np.empty_like(features)
    for start in range(0, d, COLUMNS):
        x = features[:, start : start + COLUMNS].astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        variance = np.einsum("ij,ij->j", x, x) / n
        constant = variance <= (n * np.finfo(np.float64).eps * mean) ** 2  # the rounding error of a constant
        x *= np.where(constant, 0, 1 / np.sqrt(np.where(constant, 1, variance)))
        out[:, start : start + COLUMNS] = x
    return out


def compact(x: Array) -> Array:
    """Rotate the rows of x [N, D] into at most N coordinates, which keeps all their inner products.

    This is a pivoted Cholesky decomposition of the inner products, ten times faster than their eigenvectors.
    """
    if x.shape[1] <= x.shape[0]:
        return x
    gram = x @ x.T
    lower, pivots, rank, _ = linalg.lapack.dpstrf(gram, lower=1, tol=1e-12 * gram.diagonal().max())
    rank = max(rank, 1)  # the squares of tiny numbers may all be 0
    out = np.empty((len(x), rank))
    out[pivots - 1] = np.tril(lower)[:, :rank]
    return out


def classes(labels: Array) -> tuple[Array, Array]:
    """Return codes [N] of the classes that occur, 0 to C - 1 in the order of the labels, and their image counts [C]."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return codes, counts


def one_hot(codes: Array, count: int) -> Array:
    """Return class codes [N] as a one-hot matrix [N, C] float64."""
    out = np.zeros((len(codes), count))
    out[np.arange(len(codes)), codes] = 1
    return out


def class_sums(x: Array, codes: Array, count: int) -> Array:
    """Return the rows of x [N, D] summed by class, [C, D]."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=count))])
    members = sparse.csr_array((np.ones(len(codes)), np.argsort(codes, kind="stable"), starts), (count, len(codes)))
    return members @ x


def ledoit_wolf(x: Array, gram: Array, dims: int) -> float:
    """Return how far a covariance should shrink towards a multiple of the identity (Ledoit and Wolf 2004).

    Args:
        x: Centred rows [N, K], in any basis that contains them.
        gram: x^T x or x x^T. Only its Frobenius norm is used.
        dims: D, the number of features, which may be larger than K.

    Returns:
        The share of the identity, 0 to 1.
    """
    n = len(x)
    norms = np.einsum("ij,ij->i", x, x)
    mean = norms.sum() / (n * dims)
    square = np.vdot(gram, gram) / n**2
    spread = square - dims * mean**2
    noise = (np.vdot(norms, norms) / n - square) / n
    if dims == 1:
        return 0.0
    return float(np.clip(noise / spread, 0, 1)) if spread > 0 else 1.0
