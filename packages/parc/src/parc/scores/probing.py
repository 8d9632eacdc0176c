"""Scores by what a simple classifier or regression on the features gets right: neighbours, logistic, ridge.

All are percentages. Distances and fits are in float64.
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
"""Distances that are held at a time, 32 MB."""
FEW = 16
"""Up to so many neighbours are found one after the other, which beats a partial sort."""
GRID = 10.0 ** np.arange(-7, 2)
"""Ridges that are tried, as shares of the summed variance of the features."""


def knn(features: ArrayLike, labels: ArrayLike, *, k: int = 1, metric: str = "euclidean") -> float:
    """Percentage of images that their k nearest other images put right (PARC paper, section 4, "k-NN CV").

    The most frequent label of the k wins, the smallest of several such. Where all k differ, the image counts as the
    share of the k that are right: so the published code has it. An image is no neighbour of itself, whatever its
    duplicates (the published code takes the first of several equals for it). Of images at equal distance the first
    ones count, up to k = 16.

    Args:
        features: [N, D], as they are.
        labels: [N] integers; or zeros and ones [N, C] for k=1, which count entry by entry.
        k: Neighbours, 1 to N - 1.
        metric: ``euclidean``, ``cosine`` (a row of zeros is at distance 1 to all) or ``cityblock``.

    Raises:
        InputError: Bad input (`parc.scores.inputs`), k out of range or unknown metric.
        NotSupported: Multi-label with k > 1.
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
    """Percentage of the last images that their k nearest of the first images put right (euclidean).

    The order of the images is the split, with no shuffling: `parc.sample_probe` interleaves the classes, sorted images
    make no sense here. The most frequent label wins, the smallest of several such.

    Args:
        features: [N, D], as they are.
        labels: [N] integers.
        percent_train: Share of the images, the last ones, that are tested. The name is the published one and misleads.
        k: Neighbours, at most the images to learn from.

    Raises:
        InputError: Bad input (`parc.scores.inputs`), k out of range, or no images on one side.
    """
    x, y, split = _split(features, labels, percent_train)
    codes, counts = classes(y)
    near = _nearest(x[split:], x[:split], k, "euclidean")
    return float(100 * np.mean(_votes(codes[near], len(counts))[1] == codes[split:]))


def logistic(features: ArrayLike, labels: ArrayLike, *, percent_train: float = 0.5) -> float:
    """Percentage of the last images that logistic regression on the first images puts right.

    As published: multinomial, L2 with C = 1, at most 20 steps of L-BFGS to a tolerance of 0.1, features unscaled.

    Args:
        features: [N, D], as they are.
        labels: [N] integers.
        percent_train: Share of the images, the last ones, that are tested, as in `split_knn`.

    Raises:
        InputError: Bad input (`parc.scores.inputs`), no images on one side, or one class only to learn from.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y, split = _split(features, labels, percent_train)
    if len(np.unique(y[:split])) < 2:
        raise InputError(f"labels has 1 class ({y[0]}) in the first {split} images, to learn from; 2 are needed")
    model = LogisticRegression(C=1.0, max_iter=20, tol=0.1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 20 steps are the recipe
        model.fit(x[:split], y[:split])
    return float(100 * np.mean(model.predict(x[split:]) == y[split:]))


def ridge_press(features: ArrayLike, labels: ArrayLike) -> float:
    """Left-one-out fit of ridge regression, times 100, in closed form (Allen's PRESS).

    For classes, the percentage of images whose own class has the highest left-one-out prediction of all one-hot
    columns (equals go to the smallest label); an accuracy, as of the other classifiers here. The mean of the other
    images, which these predictions start from, has less of the image's own class, and would put features without any
    use at 0: for classes the mean of all images takes its place. For multi-label and
    regression, the mean over columns of 1 - PRESS / PRESS of the mean: 100 is perfect, 0 no better than the mean of the
    other images, less is worse. Columns that are constant do not count.
    One ridge for all columns, which has the least PRESS of `GRID`; an intercept goes unpenalised. As the ridge was
    chosen on the same images, the score is a little optimistic, for all models alike.

    Args:
        features: [N, D]; the same under rotation and one scale for all features.
        labels: [N] integers, zeros and ones [N, C], or floats [N] or [N, T].

    Raises:
        InputError: Bad input (`parc.scores.inputs`).
    """
    x = features_of(features)
    n = len(x)
    y = labels_of(labels, n, kinds=("classes", "multilabel", "regression"))
    targets = targets_of(y)
    left_out = _left_out(centred(x), targets)
    of_mean = n / (n - 1) * (targets - targets.mean(0))  # targets less the mean of the other images
    if y.ndim == 1 and y.dtype.kind in "iu":
        votes = left_out - (targets - of_mean) + targets.mean(0)
        return float(100 * np.mean(np.argmax(votes, 1) == classes(y)[0]))
    return float(100 * np.mean(1 - ((targets - left_out) ** 2).sum(0) / (of_mean**2).sum(0)))


def _left_out(x: Array, targets: Array) -> Array:
    """Predictions [N, T] of every image by the ridge regression on all others, at the best ridge of `GRID`."""
    found = spectrum(x)
    middle = targets.mean(0)
    inner, left = found.left_times(targets - middle), found.left
    shares = found.values / (found.values + GRID[:, None] * found.values.sum())  # [G, K]
    rest = 1 - 1 / len(x) - (left**2) @ shares.T  # 1 - leverage, [N, G]
    best, least = targets, np.inf
    for share, free in zip(shares, rest.T, strict=True):
        error = (targets - middle - left @ (share[:, None] * inner)) / free[:, None]
        press = float(np.vdot(error, error))
        if press < least:
            best, least = targets - error, press
    return best


def _split(features: ArrayLike, labels: ArrayLike, share: float) -> tuple[Array, Array, int]:
    """Features as float64, labels, and how many images come first."""
    x = features_of(features).astype(np.float64)
    y = labels_of(labels, len(x))
    tested = int(share * len(x)) if 0 <= share <= 1 else 0
    split = len(x) - tested
    if not 0 < split < len(x):
        raise InputError(f"percent_train={share} of {len(x)} images tests {tested}; 1 to {len(x) - 1} must be tested")
    unseen = ~np.isin(y[split:], y[:split])
    if unseen.mean() > 0.5:
        warnings.warn(
            f"{unseen.sum()} of the last {len(unseen)} images are of classes that the first {split} lack; the order of "
            "the images is the split, so classes should be interleaved",
            stacklevel=3,
        )
    return x, y, split


def _votes(labels: Array, count: int) -> tuple[Array, Array]:
    """Of neighbours' labels [N, k]: how many votes the winner has and which it is, the smallest of equals, [N] each."""
    if labels.shape[1] == 1:
        return np.ones(len(labels), np.int64), labels[:, 0]
    cells = labels + count * np.arange(len(labels))[:, None]
    table = np.bincount(cells.ravel(), minlength=len(labels) * count).reshape(-1, count)
    return table.max(1), table.argmax(1)


def _nearest(rows: Array, others: Array | None, k: int, metric: str) -> Array:
    """Indices [N, k] of the nearest of the others, in no order; None for the other rows themselves."""
    if metric not in METRICS:
        raise InputError(f"metric={metric!r} is none of {', '.join(METRICS)}")
    count = len(rows) - 1 if others is None else len(others)
    if not isinstance(k, int | np.integer) or not 1 <= k <= count:
        raise InputError(f"k={k} neighbours of {count} images; 1 to {count} are allowed")
    found = []
    for start, block in _distances(rows, others, metric):
        if others is None:
            block[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        found.append(_smallest(block, k))
    return np.concatenate(found)


def _smallest(block: Array, k: int) -> Array:
    """Indices [N, k] of the k smallest of each row; the block is spent."""
    if k > FEW:
        return np.argpartition(block, k - 1, axis=1)[:, :k]
    rows, out = np.arange(len(block)), np.empty((len(block), k), np.int64)
    for i in range(k):
        out[:, i] = block.argmin(1)
        block[rows, out[:, i]] = np.inf
    return out


def _distances(rows: Array, others: Array | None, metric: str) -> Iterator[tuple[int, Array]]:
    """(first row, distances or what orders as they do [some rows, others]), a block at a time."""
    a = _prepared(rows, metric, rows if others is None else others)
    b = a if others is None else _prepared(others, metric, others)
    halves = np.einsum("ij,ij->i", b, b) / 2
    size = max(1, BLOCK // len(b))
    for start in range(0, len(a), size):
        block = a[start : start + size] if len(a) > size else a  # a matrix times its own transpose is half the work
        if metric == "cityblock":
            from scipy.spatial.distance import cdist

            yield start, cdist(block, b, "cityblock")
        elif metric == "cosine":
            yield start, np.negative(out := block @ b.T, out=out)
        else:  # half the squared distance, less half the row's own squared length
            yield start, np.subtract(halves, out := block @ b.T, out=out)


def _prepared(x: Array, metric: str, origin: Array) -> Array:
    """Rows as float64: of length 1 for cosine, near the origin for euclidean, where rounding is least."""
    x = x.astype(np.float64)
    if metric == "cosine":
        length = np.sqrt(np.einsum("ij,ij->i", x, x))
        return x / np.where(length > 0, length, 1)[:, None]
    return x - origin.mean(0, dtype=np.float64) if metric == "euclidean" else x
