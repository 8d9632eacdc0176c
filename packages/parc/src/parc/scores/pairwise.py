"""Scores that compare pairs of images: PARC, its ROC form, RSA and DDS (sections 3 and 4 of the paper).

The original correlates one-hot rows in floating point, so equal label distances differ in their last bit and stop
being ties: for about a third of the class counts (6, 7, 12, 14, 22, 37, 53 and more; it depends on the linear algebra
library) its PARC is wrong, by up to 16 points. Here ties are ties: with classes, a pair is of the same class or it is
not, and PARC then follows from how the distances of the same-class pairs rank among all of them. With N pairs, m of the
same class, q = m / N, and AUC the share of (same-class pair, other pair) in which the former is nearer (ties half)::

    PARC = 100 * N * sqrt(q (1 - q) / V) * (AUC - 1/2),      V = (N^2 - 1) / 12 - sum(t^3 - t) / (12 N)

with t the sizes of groups of tied distances, which are few but for toy features. So PARC is an affine map of the AUC
whose slope depends on the labels alone, and its largest value is about ``100 * sqrt(3 q (1 - q))`` (`ceiling`): 69 for
5 balanced classes, 24 for 50, 12 for 200. Scores rank models on one data set; they are not comparable between sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parc.scores.inputs import Array, features_of, labels_of, reference_of
from parc.scores.pairs import Distances, correlated, everything, from_matrix, from_rows, ranks, separate, unit
from parc.scores.pca import standardize
from plm_core.errors import InputError

MOST = 2000
"""Images for which a whole matrix of distances is kept."""


def parc(features: Array, labels: Array, *, num_classes: int | None = None) -> float:
    """Pairwise Annotation Representation Comparison (arXiv 2111.06977, section 4).

    100 times the Spearman correlation, over all pairs of images, of how far their features are (1 - Pearson correlation
    of standardized features) with how far their labels are (the same for one-hot or multi-hot labels).

    Args:
        features: [N, D], D >= 2. The paper reduces to 32 dimensions first (``pca=32`` of `parc.score`).
        labels: Classes int64 [N], or multi-hot [N, C]. An image without any label, or with all, is as far from every
            other as uncorrelated ones are.
        num_classes: Classes of the data set, to check the labels; the score does not depend on it.

    Returns:
        Points between -100 and 100; with classes at most about `ceiling` of the labels.

    Raises:
        InputError: Unfit features or labels, or no two images that share a class.
    """
    x, y = _inputs(features, labels, num_classes, ("classes", "multilabel"))
    if y.ndim == 2:
        return _spearman(from_rows(correlated(x)), _label_distances(y), len(x), "labels")
    order = np.argsort(y, kind="stable")
    return 100 * separate(from_rows(correlated(x[order])), y[order]).spearman


def parc_auc(features: Array, labels: Array) -> float:
    """PARC as an area under the ROC curve: how often two images of a class are nearer than two of different classes.

    Percent over all (same-class pair, other pair), ties counting half: 50 is chance, 100 is perfect, whatever the
    number of classes. It ranks models as `parc` does (one is an affine map of the other as long as few distances tie).

    Args:
        features: [N, D], D >= 2.
        labels: Classes int64 [N].

    Raises:
        InputError: Unfit features or labels, or no two images that share a class.
    """
    x, y = _inputs(features, labels, None, ("classes",))
    order = np.argsort(y, kind="stable")
    return 100 * separate(from_rows(correlated(x[order])), y[order]).auc


def ceiling(labels: Array) -> float:
    """The PARC of features that put all pairs of a class before all others, 100 sqrt(3 q (1 - q)).

    For many images, and distances that do not tie: with q the share of same-class pairs.

    Args:
        labels: Classes int64 [N].
    """
    y = labels_of(labels)
    counts, n = np.bincount(y).astype(np.float64), len(y)
    share = float((counts * (counts - 1)).sum() / (n * (n - 1)))
    return 100 * float(np.sqrt(3 * share * (1 - share)))


def rsa(features: Array, labels: Array, *, reference_features: Array | None = None) -> float:
    """Representation similarity: as PARC, with the pair distances of a reference model in place of the labels'.

    Args:
        features: [N, D], D >= 2.
        labels: Anything of length N; not looked at.
        reference_features: [N, D'] of a model that was trained on this data set. So this is an upper bound to compare
            with rather than a way to choose; the published rows use one resnet50 for all.

    Returns:
        100 times the Spearman correlation of the distances of pairs.

    Raises:
        NotSupported: No reference features.
        InputError: Unfit features.
    """
    x, r = _with_reference("rsa", features, labels, reference_features)
    return _spearman(from_rows(correlated(x)), from_rows(correlated(r)), len(x), "reference_features")


def dds(features: Array, labels: Array, *, reference_features: Array | None = None) -> float:
    """Duality diagram similarity to a reference model, which is a debiased linear CKA of unit-length features.

    Cosine distances of standardized features, centred without bias (U-statistic), and the cosine of the two matrices.
    The centring removes what is constant over pairs, so similarities serve as well as distances; and then either the
    [N, N] or the [D, D] products give the same sums, whichever are smaller.

    Args:
        features: [N, D], N >= 4.
        labels: Anything of length N; not looked at.
        reference_features: [N, D'] of a model that was trained on this data set.

    Returns:
        100 times the cosine, between -100 and 100.

    Raises:
        NotSupported: No reference features.
        InputError: Unfit features, or fewer than 4 images.
    """
    x, r = _with_reference("dds", features, labels, reference_features)
    if len(x) < 4:
        raise InputError(f"features has {len(x)} images; dds needs at least 4")
    x, r = (unit(standardize(a.astype(np.float64))) for a in (x, r))
    return _alignment(_dependence(x, r), _dependence(x, x), _dependence(r, r))


# --- many subsets of the same images --------------------------------------------------------------------------------


def resampler(name: str, features: Array, labels: Array, **inputs: Any) -> Callable[[Array], float] | None:
    """The score ``name`` of subsets of the images, from distances that are computed once.

    Features are standardized over all images, not over each subset.

    Args:
        name: One of parc, parc-auc, rsa and dds; for any other, and for more than `MOST` images, there is none.
        features: [N, D], checked.
        labels: [N] or [N, C], checked.
        **inputs: ``reference_features`` for rsa and dds.

    Returns:
        A function of indices [M] of images.
    """
    if len(features) > MOST or name not in ("parc", "parc-auc", "rsa", "dds"):
        return None
    if name == "dds":
        return _dds_of(*(unit(standardize(a.astype(np.float64))) for a in (features, inputs["reference_features"])))
    matrix = everything(from_rows(correlated(features)), len(features))
    if name == "rsa":
        reference = inputs["reference_features"]
        other = everything(from_rows(correlated(reference)), len(reference))
    elif labels.ndim == 2:
        other = everything(_label_distances(labels), len(labels))
    else:
        return _separated(matrix, labels, "spearman" if name == "parc" else "auc")
    return lambda half: _spearman(_part(matrix, half), _part(other, half), len(half), "this half")


def _separated(matrix: Array, labels: Array, attribute: str) -> Callable[[Array], float]:
    def of(half: Array) -> float:
        half = half[np.argsort(labels[half], kind="stable")]
        return 100 * float(getattr(separate(_part(matrix, half), labels[half]), attribute))

    return of


def _dds_of(x: Array, r: Array) -> Callable[[Array], float]:
    similar = [a @ a.T for a in (x, r)]
    for matrix in similar:
        np.fill_diagonal(matrix, 0)

    def of(half: Array) -> float:
        a, b = (_centred(matrix[np.ix_(half, half)]) for matrix in similar)
        return _alignment(float(np.vdot(a, b)), float(np.vdot(a, a)), float(np.vdot(b, b)))

    return of


def _part(matrix: Array, half: Array) -> Distances:
    return from_matrix(matrix[np.ix_(half, half)])


# --- pieces ---------------------------------------------------------------------------------------------------------


def _label_distances(labels: Array) -> Distances:
    return from_rows(correlated(labels.astype(np.float64), scaled=False))


def _spearman(a: Distances, b: Distances, n: int, other: str) -> float:
    """100 times the rank correlation of two matrices of distances of N images."""
    return 100 * float(np.clip(ranks(a, n, "features") @ ranks(b, n, other), -1, 1))


def _dependence(a: Array, b: Array) -> float:
    """Inner product of the U-centred similarities of two sets of rows (debiased HSIC, up to a factor of N)."""
    n = len(a)
    own_a, own_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    few = n <= min(a.shape[1], b.shape[1])
    products = float(np.vdot(a @ a.T, b @ b.T) if few else np.square(a.T @ b).sum())
    sums_a, sums_b = a @ a.sum(axis=0) - own_a, b @ b.sum(axis=0) - own_b
    mixed = sums_a.sum() * sums_b.sum() / ((n - 1) * (n - 2)) - 2 * float(sums_a @ sums_b) / (n - 2)
    return float(products - own_a @ own_b + mixed)


def _centred(similar: Array) -> Array:
    """A matrix with a diagonal of zeros, U-centred in place."""
    n = len(similar)
    means = similar.sum(axis=0) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    similar -= means
    similar -= means[:, None]
    np.fill_diagonal(similar, 0)
    return similar


def _alignment(cross: float, own: float, other: float) -> float:
    if min(own, other) <= 0:
        name = "features" if own <= 0 else "reference_features"
        raise InputError(f"{name}: all pairs of images are equally far apart")
    return 100 * cross / float(np.sqrt(own * other))


def _inputs(features: Any, labels: Any, num_classes: int | None, kinds: tuple[str, ...]) -> tuple[Array, Array]:
    x = features_of(features)
    return _wide(x, "features"), labels_of(labels, len(x), num_classes, kinds)


def _with_reference(score: str, features: Any, labels: Any, reference: Any) -> tuple[Array, Array]:
    x = features_of(features)
    if len(labels) != len(x):
        raise InputError(f"labels has {len(labels)} rows for {len(x)} images")
    return _wide(x, "features"), _wide(reference_of(reference, len(x), score), "reference_features")


def _wide(x: Array, name: str) -> Array:
    if x.shape[1] < 2:
        raise InputError(f"{name} has 1 dimension; a correlation of rows needs at least 2")
    return x
