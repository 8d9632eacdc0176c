"""The area under the ROC curve and the average precision, from ranks. Equal scores share their ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gazelle.metrics.points import numbers
from plm_core import InputError

FEW = 32
"""The number of positives up to which scores are compared with each positive, instead of sorted."""
BLOCK = 2**15
"""The number of scores that are compared at once, so that they stay in the processor's cache."""


def auc(scores: NDArray[Any], places: NDArray[np.int64]) -> float:
    """Return the area under the ROC curve: the share of pairs (positive, negative) in which the positive scores more.

    A pair of equal scores counts half. That is what sklearn's ``roc_auc_score`` gives, but no score needs a label, and
    nothing is sorted for a few positives.

    Args:
        scores: All scores [M], finite.
        places: The places of the positives among them [P], all different.

    Returns:
        The area, or NaN if all scores are positives or none is.
    """
    total, count = len(scores), len(places)
    if count in (0, total):
        return float("nan")
    won = _lower(scores, scores[places])
    # what was counted has also the pairs of two positives: one for each pair, and a half for each with itself
    return (won - count**2 / 2) / (count * (total - count))


def _lower(scores: NDArray[Any], positives: NDArray[Any]) -> float:
    """Return how many scores lie below each positive, summed over the positives. An equal score counts half."""
    if len(positives) <= FEW:
        wanted, blocks = positives[:, None], (scores[i : i + BLOCK] for i in range(0, len(scores), BLOCK))
        twice = sum(int(np.count_nonzero(block < wanted) + np.count_nonzero(block <= wanted)) for block in blocks)
    else:
        ordered, wanted = np.sort(scores), np.sort(positives)
        twice = sum(int(ordered.searchsorted(wanted, side).sum()) for side in ("left", "right"))
    return twice / 2


def inout_ap(scores: Any, labels: Any) -> float:
    """Return the average precision of in/out scores, the sum of (recall - previous recall) * precision by threshold.

    Equal scores are one threshold. That is sklearn's ``average_precision_score``.

    Args:
        scores: The score of each person [N]: the higher, the more likely the target is inside the picture.
        labels: 1 where it is inside and 0 elsewhere [N], over all people and frames.

    Returns:
        The average precision, or NaN if nobody looks inside.

    Raises:
        InputError: The two do not match, are empty or not finite, or a label is neither 0 nor 1.
    """
    values, truth = numbers("scores", scores, 1), numbers("labels", labels, 1)
    if values.shape != truth.shape:
        raise InputError(f"scores and labels are of {len(values)} and {len(truth)} people; the same number is expected")
    if not np.isin(truth, (0, 1)).all():
        raise InputError("labels are not all 0 or 1")
    if not truth.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    hits = truth[order].cumsum()
    last = np.append(np.diff(values[order]) != 0, True)  # of each threshold
    recall, precision = hits[last] / hits[-1], (hits / np.arange(1, len(hits) + 1))[last]
    return float((np.diff(recall, prepend=0) * precision).sum())
