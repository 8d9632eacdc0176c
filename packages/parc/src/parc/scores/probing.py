"""Scores from the accuracy of a simple classifier or regression on the features: neighbours, logistic, ridge.

All of them are percentages. Distances and fits are computed in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from parc.scores.evidence import targets_of
from parc.scores.inputs import Array, features_of, labels_of
from parc.scores.linalg import centred, classes, spectrum
from plm_core.errors import InputError, NotSupported

METRICS = ("euclidean", "cosine", "cityblock")
BLOCK = 1 << 22
"""Number of distances that exist at a time, 32 MB."""
FEW = 16
"""Number of neighbours up to which they are found one after the other, which is faster than a partial sort."""
GRID = 10.0 ** np.arange(-7, 2)
"""Ridges to try, as shares of the summed variance of the features."""


def knn(features: ArrayLike, labels: ArrayLike, *, k: int = 1, metric: str = "euclidean") -> float:
    """Compute the leave-one-out accuracy in percent of k nearest neighbours (PARC paper, section 4, "k-NN CV").

    The most frequent label of the k wins; of several such labels, the smallest. If all k labels differ, the image
    counts as the share of the k that are right, as in the published code. An image is never its own neighbour, even if
    it has duplicates (the published code takes the first of several equal images for the image itself). Of images at
    equal distance the first ones count, up to k = 16.

    Args:
        features: [N, D], which are not scaled.
        labels: [N] integers; or zeros and ones [N, C] for k=1, which count entry by entry.
        k: Number of neighbours, 1 to N - 1.
        metric: ``euclidean``, ``cosine`` (a row of zeros has distance 1 to all rows) or ``cityblock``.

    Raises:
        InputError: The features or labels are not allowed, k is out of range, or the metric is unknown.
        NotSupported: The labels are multi-label and k > 1.
    """
    x = features_of(features)
    y = labels_of(labels, len(x), kinds=("classes", "multilabel"))
    if y.ndim == 2 and k != 1:
        raise NotSupported(f"knn with k={k} votes on one label an image; labels is {list(y.shape)}, which takes k=1")
    near = _nearest(x, None, k, metric)
    if y.ndim == 2:
        return float(100 * np.mean(y[near[:, 0]] == y))
    codes, counts = classes(y)
    votes, winner = _votes(codes[near], len(counts))
    credit = np.where(votes == 1, (codes[near] == codes[:, None]).mean(1), winner == codes)
    return float(100 * credit.mean())


def split_knn(features: ArrayLike, labels: ArrayLike, *, percent_train: float = 0.5, k: int = 1) -> float:
    """Compute the accuracy in percent of the last images by their k nearest neighbours among the first images.

    The distance is euclidean. The most frequent label wins; of several such labels, the smallest.

    The order of the images is the split, without shuffling, as in the published code: `parc.sample_probe` interleaves
    the classes. In another order, such as one class after the other, the last images may be of classes that the first
    ones lack. The images are then interleaved first: the first image of each class, the second of each, and so on.

    Args:
        features: [N, D], which are not scaled.
        labels: [N] integers.
        percent_train: Share of the images that are tested, the last ones. The name is the published one and misleading.
        k: Number of neighbours, at most the number of images to learn from.

    Raises:
        InputError: The features or labels are not allowed, k is out of range, or one side of the split is empty.
    """
    x, y, split = _split(features, labels, percent_train)
    codes, counts = classes(y)
    near = _nearest(x[split:], x[:split], k, "euclidean")
    return float(100 * np.mean(_votes(codes[near], len(counts))[1] == codes[split:]))


def logistic(features: ArrayLike, labels: ArrayLike, *, percent_train: float = 0.5) -> float:
    """Compute the accuracy in percent of the last images by logistic regression on the first images.

    The recipe is the published one: multinomial, L2 with C = 1, at most 20 steps of L-BFGS to a tolerance of 0.1. So
    the score depends on the scale of the features. Where they are so small that the solver takes no step, all images
    get the same class, and a warning says so.

    Args:
        features: [N, D], which are not scaled.
        labels: [N] integers.
        percent_train: Share of the images that are tested, the last ones. The split is that of `split_knn`.

    Raises:
        InputError: The features or labels are not allowed, one side of the split is empty, or the images to learn from
            are of one class only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y, split = _split(features, labels, percent_train)
    if len(np.unique(y[:split])) < 2:
        raise InputError(f"labels has 1 class ({y[0]}) in the first {split} images, to learn from; 2 are needed")
    model = LogisticRegression(C=1.0, max_iter=20, tol=0.1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the recipe has 20 steps
        model.fit(x[:split], y[:split])
    if not np.any(model.coef_):
        warnings.warn(
            "logistic has learned nothing: the published recipe stops before its first step, as it does for features "
            "of a small scale; ridge-press does not depend on the scale",
            stacklevel=2,
        )
    return float(100 * np.mean(model.predict(x[split:]) == y[split:]))


def ridge_press(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute the leave-one-out fit of ridge regression, times 100, in closed form (Allen's PRESS).

    For classes the score is an accuracy, like that of the other classifiers here: the percentage of images whose own
    class has the highest leave-one-out prediction among all one-hot columns. Of equal predictions the one with the
    smallest label wins. Leave-one-out predictions start from the mean of the other images, which contains less of the
    image's own class. This would put useless features at 0, so for classes the mean of all images takes its place.

    For multi-label and regression the score is the mean over columns of 1 - PRESS / PRESS of the mean: 100 is perfect,
    0 is no better than the mean of the other images, and less is worse. Constant columns do not count.

    All columns share one ridge, the one of `GRID` with the least PRESS. The intercept is not penalised. The ridge is
    chosen on the same images, so the score is a little optimistic, for all models alike.

    Args:
        features: [N, D]. A rotation or a common scale of all features does not change the score.
        labels: [N] integers, zeros and ones [N, C], or floats [N] or [N, T].

    Raises:
        InputError: The features or labels are not allowed.
    """
    x = features_of(features)
    n = len(x)
    y = labels_of(labels, n, kinds=("classes", "multilabel", "regression"))
    targets = targets_of(y)
    predictions = _leave_one_out(centred(x), targets)
    of_mean = n / (n - 1) * (targets - targets.mean(0))  # targets minus the mean of the other images
    if y.ndim == 1 and y.dtype.kind in "iu":
        votes = predictions - (targets - of_mean) + targets.mean(0)
        return float(100 * np.mean(np.argmax(votes, 1) == classes(y)[0]))
    return float(100 * np.mean(1 - ((targets - predictions) ** 2).sum(0) / (of_mean**2).sum(0)))


def _leave_one_out(x: Array, targets: Array) -> Array:
    """Predict the targets [N, T] of every image by ridge regression on all others, at the best ridge of `GRID`."""
    svd = spectrum(x)
    middle = targets.mean(0)
    inner, left = svd.left_times(targets - middle), svd.left
    shares = svd.values / (svd.values + GRID[:, None] * svd.values.sum())  # [G, K]
    rest = 1 - 1 / len(x) - (left**2) @ shares.T  # 1 - leverage, [N, G]
    best, least = targets, np.inf
    for share, free in zip(shares, rest.T, strict=True):
        error = (targets - middle - left @ (share[:, None] * inner)) / free[:, None]
        press = float(np.vdot(error, error))
        if press < least:
            best, least = targets - error, press
    return best


def _split(features: ArrayLike, labels: ArrayLike, share: float) -> tuple[Array, Array, int]:
    """Return features as float64, labels, and the number of images to learn from, which come first.

    The order is kept if each class that is tested is also learned from, or has one image only.
    """
    x = features_of(features).astype(np.float64)
    y = labels_of(labels, len(x))
    tested = int(share * len(x)) if 0 <= share <= 1 else 0
    split = len(x) - tested
    if not 0 < split < len(x):
        raise InputError(f"percent_train={share} of {len(x)} images tests {tested}; 1 to {len(x) - 1} must be tested")
    codes, counts = classes(y)
    if (counts[np.setdiff1d(codes[split:], codes[:split])] > 1).any():
        order = _interleaved(codes)
        x, y = x[order], y[order]
    unseen = ~np.isin(y[split:], y[:split])
    if unseen.mean() > 0.5:
        warnings.warn(
            f"{unseen.sum()} of {len(unseen)} tested images are of classes without an image to learn from; there are "
            f"{len(counts)} classes for {split} of them",
            stacklevel=3,
        )
    return x, y, split


def _interleaved(codes: Array) -> Array:
    """Return the order in which the first image of each class comes before the second of any, and so on."""
    by_class = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_class], codes[by_class])
    turn = np.empty(len(codes), np.int64)
    turn[by_class] = np.arange(len(codes)) - starts
    return np.argsort(turn, kind="stable")


def _votes(labels: Array, count: int) -> tuple[Array, Array]:
    """Return the votes of the winning label among labels [N, k], and the label, the smallest of equals; both [N]."""
    if labels.shape[1] == 1:
        return np.ones(len(labels), np.int64), labels[:, 0]
    cells = labels + count * np.arange(len(labels))[:, None]
    table = np.bincount(cells.ravel(), minlength=len(labels) * count).reshape(-1, count)
    return table.max(1), table.argmax(1)


def _nearest(rows: Array, others: Array | None, k: int, metric: str) -> Array:
    """Return the indices [N, k] of the nearest others, in no order. None for ``others`` stands for the other rows."""
    if metric not in METRICS:
        raise InputError(f"metric={metric!r} is none of {', '.join(METRICS)}")
    count = len(rows) - 1 if others is None else len(others)
    if not isinstance(k, int | np.integer) or not 1 <= k <= count:
        raise InputError(f"k={k} neighbours of {count} images; 1 to {count} are allowed")
    nearest = []
    for start, block in _distances(rows, others, metric):
        if others is None:
            block[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        nearest.append(_smallest(block, k))
    return np.concatenate(nearest)


def _smallest(block: Array, k: int) -> Array:
    """Return the indices [N, k] of the k smallest of each row. The block is overwritten."""
    if k > FEW:
        return np.argpartition(block, k - 1, axis=1)[:, :k]
    rows, out = np.arange(len(block)), np.empty((len(block), k), np.int64)
    for i in range(k):
        out[:, i] = block.argmin(1)
        block[rows, out[:, i]] = np.inf
    return out


def _distances(rows: Array, others: Array | None, metric: str) -> Iterator[tuple[int, Array]]:
    """Yield (first row, block [some rows, others]) of distances, or of numbers in the same order."""
    a = _prepared(rows, metric, rows if others is None else others)
    b = a if others is None else _prepared(others, metric, others)
    halves = np.einsum("ij,ij->i", b, b) / 2
    size = max(1, BLOCK // len(b))
    for start in range(0, len(a), size):
        block = a[start : start + size] if len(a) > size else a  # a matrix times its own transpose costs half
        if metric == "cityblock":
            from scipy.spatial.distance import cdist

            yield start, cdist(block, b, "cityblock")
        elif metric == "cosine":
            yield start, np.negative(out := block @ b.T, out=out)
        else:  # half the squared distance minus half the squared length of the row
            yield start, np.subtract(halves, out := block @ b.T, out=out)


def _prepared(x: Array, metric: str, origin: Array) -> Array:
    """Return rows as float64, with length 1 for cosine, near the origin for euclidean to keep rounding small."""
    x = x.astype(np.float64)
    if metric == "cosine":
        length = np.sqrt(np.einsum("ij,ij->i", x, x))
        return x / np.where(length > 0, length, 1)[:, None]
    return x - origin.mean(0, dtype=np.float64) if metric == "euclidean" else x
