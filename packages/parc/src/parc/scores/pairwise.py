"""Scores that compare pairs of images: PARC, its ROC form, RSA and DDS (sections 3 and 4 of the paper).

The original correlates one-hot rows in floating point. Equal label distances then differ in their last bit and are no
longer ties. For about a third of the class counts (6, 7, 12, 14, 22, 37, 53 and more, depending on the linear algebra
library) its PARC is wrong, by up to 16 points. Here ties stay ties: a pair of images is of the same class or it is not,
and PARC follows from the ranks of the same-class distances among all distances. With N pairs, m of the same class,
q = m / N, and AUC the share of (same-class pair, other pair) in which the former is nearer (ties count half)::

    PARC = 100 * N * sqrt(q (1 - q) / V) * (AUC - 1/2),      V = (N^2 - 1) / 12 - sum(t^3 - t) / (12 N)

Here t are the sizes of groups of tied distances, which are rare in real features. PARC is therefore an affine map of
the AUC whose slope depends on the labels alone. Its largest value is about ``100 * sqrt(3 q (1 - q))`` (`ceiling`): 69
for 5 balanced classes, 24 for 50, 12 for 200. Scores rank models on one dataset. They are not comparable between
datasets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parc.scores.inputs import Array, features_of, labels_of
from parc.scores.linalg import classes, standardize
from parc.scores.pairs import (
    Distances,
    correlated,
    from_matrix,
    from_rows,
    ranks,
    separate,
    unit_rows,
    whole_matrix,
)
from parc.scores.reference import Reference
from plm_core.errors import InputError, NotSupported

MAX_MATRIX = 2000
"""Largest number of images for which a whole matrix of distances is kept."""


def parc(features: Array, labels: Array, *, num_classes: int | None = None) -> float:
    """Compute PARC, the Pairwise Annotation Representation Comparison (arXiv 2111.06977, section 4).

    PARC is 100 times the Spearman correlation, over all pairs of images, between the distances of their features (1 -
    Pearson correlation of standardized features) and the distances of their labels (the same for one-hot or multi-hot
    labels).

    Args:
        features: [N, D], D >= 2. The paper reduces to 32 dimensions first (``pca=32`` in `parc.score`).
        labels: Classes int64 [N], or multi-hot labels [N, C]. An image with no label or with all labels is as far from
            every other image as uncorrelated images are.
        num_classes: Number of classes in the dataset, to check the labels. The score does not depend on it.

    Returns:
        Points between -100 and 100. For classes the maximum is about `ceiling` of the labels.

    Raises:
        InputError: The features or labels are not allowed, or no two images share a class.
    """
    x, y = _inputs(features, labels, num_classes, ("classes", "multilabel"))
    if y.ndim == 2:
        return _spearman(from_rows(correlated(x)), _label_distances(y), len(x), "labels")
    order = np.argsort(y, kind="stable")
    return 100 * separate(from_rows(correlated(x[order])), y[order]).spearman


def parc_auc(features: Array, labels: Array) -> float:
    """Compute PARC as an area under the ROC curve: how often same-class pairs are nearer than other pairs.

    The result is a percentage of all (same-class pair, other pair), where ties count half. 50 is chance and 100 is
    perfect for any number of classes. It ranks models as `parc` does: one is an affine map of the other as long as few
    distances tie.

    Args:
        features: [N, D], D >= 2.
        labels: Classes int64 [N].

    Raises:
        InputError: The features or labels are not allowed, or no two images share a class.
    """
    x, y = _inputs(features, labels, None, ("classes",))
    order = np.argsort(y, kind="stable")
    return 100 * separate(from_rows(correlated(x[order])), y[order]).auc


def ceiling(labels: Array) -> float:
    """Return the PARC of perfect features, 100 sqrt(3 q (1 - q)), where q is the share of same-class pairs.

    Perfect features make every same-class pair nearer than every other pair. The formula holds for many images whose
    distances do not tie.

    Args:
        labels: Classes int64 [N].
    """
    y = labels_of(labels)
    counts, n = classes(y)[1].astype(np.float64), len(y)
    share = float((counts * (counts - 1)).sum() / (n * (n - 1)))
    return 100 * float(np.sqrt(3 * share * (1 - share)))


def rsa(features: Array, labels: Array, *, reference_features: Array | None = None) -> float:
    """Compute RSA: PARC with the distances of a reference model in place of the distances of the labels.

    Args:
        features: [N, D], D >= 2.
        labels: Anything of length N. The values are not used.
        reference_features: [N, D'] of a model that was trained on this dataset. This makes the score an upper bound to
            compare with rather than a way to choose a model. The published rows use one resnet50 for all models.

    Returns:
        100 times the Spearman correlation of the distances of pairs.

    Raises:
        NotSupported: There are no reference features.
        InputError: The features are not allowed.
    """
    x, r = _with_reference("rsa", features, labels, reference_features)
    return _correlation(ranks(from_rows(correlated(x)), len(x), "features"), r.ranks)


def dds(features: Array, labels: Array, *, reference_features: Array | None = None) -> float:
    """Compute the duality diagram similarity to a reference model, a debiased linear CKA of unit-length features.

    It is the cosine of two matrices: the cosine distances of the standardized features of each model, centred without
    bias (U-statistic). The centring removes anything that is constant over pairs, so similarities serve as well as
    distances. The [N, N] and the [D, D] products then give the same sums, and the smaller ones are computed.

    Args:
        features: [N, D], N >= 4.
        labels: Anything of length N. The values are not used.
        reference_features: [N, D'] of a model that was trained on this dataset.

    Returns:
        100 times the cosine, between -100 and 100.

    Raises:
        NotSupported: There are no reference features.
        InputError: The features are not allowed, or there are fewer than 4 images.
    """
    x, r = _with_reference("dds", features, labels, reference_features)
    if len(x) < 4:
        raise InputError(f"features has {len(x)} images; dds needs at least 4")
    a, b = unit_rows(standardize(x.astype(np.float64))), r.unit_rows
    return _alignment(_dependence(a, b), _dependence(a, a), r.once("dependence", lambda: _dependence(b, b)))


def resampler(name: str, features: Array, labels: Array, **inputs: Any) -> Callable[[Array], float] | None:
    """Return a function that scores subsets of the images from distances that are computed once.

    Features are standardized over all images, not over each subset.

    Args:
        name: Name of the score: parc, parc-auc, rsa or dds.
        features: [N, D], checked.
        labels: [N] or [N, C], checked.
        **inputs: ``reference_features`` for rsa and dds.

    Returns:
        A function from indices [M] of images to their score. None for any other score, and for more than `MAX_MATRIX`
        images.
    """
    if len(features) > MAX_MATRIX or name not in ("parc", "parc-auc", "rsa", "dds"):
        return None
    if name == "dds":
        reference = Reference(inputs["reference_features"])
        similar = reference.once("similarities", lambda: _similarities(reference.unit_rows))
        return _dds_resampler(_similarities(unit_rows(standardize(features.astype(np.float64)))), similar)
    matrix = whole_matrix(from_rows(correlated(features)), len(features))
    if name == "rsa":
        other = Reference(inputs["reference_features"]).distances
    elif labels.ndim == 2:
        other = whole_matrix(_label_distances(labels), len(labels))
    else:
        return _parc_resampler(matrix, labels, "spearman" if name == "parc" else "auc")
    return lambda half: _spearman(_part(matrix, half), _part(other, half), len(half), "the half-sample")


def _parc_resampler(matrix: Array, labels: Array, attribute: str) -> Callable[[Array], float]:
    def score_of(half: Array) -> float:
        half = half[np.argsort(labels[half], kind="stable")]
        return 100 * float(getattr(separate(_part(matrix, half), labels[half]), attribute))

    return score_of


def _dds_resampler(own: Array, other: Array) -> Callable[[Array], float]:
    def score_of(half: Array) -> float:
        a, b = (_centred(matrix[np.ix_(half, half)]) for matrix in (own, other))
        return _alignment(float(np.vdot(a, b)), float(np.vdot(a, a)), float(np.vdot(b, b)))

    return score_of


def _similarities(rows: Array) -> Array:
    """Return the inner products of rows, [N, N], with zeros on the diagonal."""
    similar: Array = rows @ rows.T
    np.fill_diagonal(similar, 0)
    return similar


def _part(matrix: Array, half: Array) -> Distances:
    return from_matrix(matrix[np.ix_(half, half)])


def _label_distances(labels: Array) -> Distances:
    return from_rows(correlated(labels.astype(np.float64), scaled=False))


def _spearman(a: Distances, b: Distances, n: int, other: str) -> float:
    """Return 100 times the rank correlation of two matrices of distances of N images."""
    return _correlation(ranks(a, n, "features"), ranks(b, n, other))


def _correlation(a: Array, b: Array) -> float:
    """Return 100 times the inner product of centred ranks of unit length."""
    return 100 * float(np.clip(a @ b, -1, 1))


def _dependence(a: Array, b: Array) -> float:
    """Return the inner product of the U-centred similarities of two sets of rows (debiased HSIC times a factor)."""
    n = len(a)
    own_a, own_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    wide = n <= min(a.shape[1], b.shape[1])
    products = float(np.vdot(a @ a.T, b @ b.T) if wide else np.square(a.T @ b).sum())
    sums_a, sums_b = a @ a.sum(axis=0) - own_a, b @ b.sum(axis=0) - own_b
    mixed = sums_a.sum() * sums_b.sum() / ((n - 1) * (n - 2)) - 2 * float(sums_a @ sums_b) / (n - 2)
    return float(products - own_a @ own_b + mixed)


def _centred(similar: Array) -> Array:
    """U-centre a matrix with a diagonal of zeros, in place."""
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


def _with_reference(score: str, features: Any, labels: Any, reference: Any) -> tuple[Array, Reference]:
    x = features_of(features)
    if len(labels) != len(x):
        raise InputError(f"labels has {len(labels)} rows for {len(x)} images")
    if reference is None:
        raise NotSupported(
            f"{score} needs reference_features, those of a model trained on this dataset; none were given"
        )
    checked = Reference(reference, len(x))
    _wide(checked, "reference_features")
    return _wide(x, "features"), checked


def _wide(x: Array, name: str) -> Array:
    if x.shape[1] < 2:
        raise InputError(f"{name} has 1 dimension; a correlation of rows needs at least 2")
    return x
