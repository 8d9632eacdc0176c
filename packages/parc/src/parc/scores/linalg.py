"""Linear algebra that the scores share: the thin SVD, fewer coordinates, sums over classes, shrinkage.

The SVD goes through the smaller of the two Gram matrices, in float64: for 500 images of 2048 features that is
the eigenvectors of a 500 x 500 matrix. What this loses, singular values under 1e-5 of the largest, is dropped as rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg, sparse

from parc.scores.inputs import Array

CUTOFF = 1e-10
"""Eigenvalues of a Gram matrix under this share of the largest are zeros that were rounded."""


@dataclass(frozen=True)
class Spectrum:
    """X = U S V^T of X [N, D], of rank K; eigenvalues are those of X^T X, largest first."""

    x: Array
    values: Array
    """[K] squared singular values."""
    _vectors: Array
    """V [D, K] where D < N, else U [N, K]."""

    @property
    def _wide(self) -> bool:
        return self.x.shape[0] <= self.x.shape[1]

    @cached_property
    def left(self) -> Array:
        """U, [N, K]."""
        return self._vectors if self._wide else (self.x @ self._vectors) / np.sqrt(self.values)

    @property
    def coordinates(self) -> Array:
        """U S, [N, K]: the rows of X in the basis V; all inner products between rows are kept."""
        return self._vectors * np.sqrt(self.values) if self._wide else self.x @ self._vectors

    def left_sums(self, codes: Array, count: int) -> Array:
        """U^T times the one-hot matrix of the codes [N], transposed: the rows of U summed by class, [C, K]."""
        if self._wide:
            return class_sums(self._vectors, codes, count)
        return (class_sums(self.x, codes, count) @ self._vectors) / np.sqrt(self.values)

    def left_times(self, targets: Array) -> Array:
        """U^T T of T [N, M], [K, M]."""
        if self._wide:
            return self._vectors.T @ targets
        return (self._vectors.T @ (self.x.T @ targets)) / np.sqrt(self.values)[:, None]


def spectrum(x: Array) -> Spectrum:
    """The thin SVD of x [N, D] float64, as it is: centre it before where that is meant."""
    wide = x.shape[0] <= x.shape[1]
    values, vectors = linalg.eigh(x @ x.T if wide else x.T @ x, overwrite_a=True, check_finite=False, driver="evd")
    rank = int(np.count_nonzero(values > CUTOFF * values[-1])) if values[-1] > 0 else 0
    return Spectrum(x, values[::-1][:rank], vectors[:, ::-1][:, :rank])


def centred(x: Array) -> Array:
    """X less its column means, as float64; the input is not changed."""
    out = x.astype(np.float64)
    out -= out.mean(0)
    return out


def compact(x: Array) -> Array:
    """The rows of x [N, D] in at most N coordinates: a rotation, which no inner product sees.

    A pivoted Cholesky decomposition of the rows' inner products, ten times faster than their eigenvectors.
    """
    if x.shape[1] <= x.shape[0]:
        return x
    gram = x @ x.T
    lower, pivots, rank, _ = linalg.lapack.dpstrf(gram, lower=1, tol=1e-12 * gram.diagonal().max())
    rank = max(rank, 1)  # squares of tiny numbers may all be 0
    out = np.empty((len(x), rank))
    out[pivots - 1] = np.tril(lower)[:, :rank]
    return out


def classes(labels: Array) -> tuple[Array, Array]:
    """Codes [N] of the classes that occur, 0 to C - 1 in the order of the labels, and how many images each has, [C]."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return codes, counts


def one_hot(codes: Array, count: int) -> Array:
    """[N, C] float64."""
    out = np.zeros((len(codes), count))
    out[np.arange(len(codes)), codes] = 1
    return out


def class_sums(x: Array, codes: Array, count: int) -> Array:
    """The rows of x [N, D] summed by class, [C, D]."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=count))])
    members = sparse.csr_array((np.ones(len(codes)), np.argsort(codes, kind="stable"), starts), (count, len(codes)))
    return members @ x


def ledoit_wolf(x: Array, gram: Array, dims: int) -> float:
    """How far the covariance of centred rows x [N, K] should shrink to a multiple of the identity (Ledoit, Wolf 2004).

    Args:
        x: Rows in any basis that holds them.
        gram: x^T x or x x^T: only its Frobenius norm counts.
        dims: D of the features, which may be more than K.

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
