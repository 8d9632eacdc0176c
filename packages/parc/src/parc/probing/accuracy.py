"""Accuracies with their intervals.

An interval holds the true accuracy with 90 % confidence, as far as the images are a random sample. It is Wilson's, from
the number of images that were judged, and does not shrink to a point at 100 %. If the images to learn from were drawn
several times, the spread of these draws is added: the squares of both distances from the accuracy are summed, which is
right for independent errors. How much another training set of the same size would change a cross-validated accuracy
cannot be estimated without bias from the folds. It is not in the interval, which is therefore a little too short for
classifiers that depend much on their few images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.9


@dataclass(frozen=True)
class Accuracy:
    """An accuracy in percent, and the ends of its 90 % interval."""

    value: float
    low: float
    high: float
    images: int
    """Number of images that were judged."""


def accuracy(correct: Sequence[NDArray[np.bool_]]) -> Accuracy:
    """Return the accuracy over all folds.

    Args:
        correct: For each fold, whether each of its images was predicted right: [draws, images of the fold].
    """
    images = sum(fold.shape[1] for fold in correct)
    share = sum(float(fold.mean(0).sum()) for fold in correct) / images
    low, high = wilson(share, images)
    spread = _spread(correct, images)
    low, high = share - math.hypot(share - low, spread), share + math.hypot(high - share, spread)
    return Accuracy(100 * share, 100 * max(low, 0.0), 100 * min(high, 1.0), images)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's interval of a share of right answers among ``count``; ``scipy`` has it for whole numbers only."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half


def _spread(correct: Sequence[NDArray[np.bool_]], images: int) -> float:
    """Return half the width of the interval of the mean over draws, by Student's t; 0 for a single draw."""
    from scipy.stats import t

    draws = len(correct[0])
    if draws < 2:
        return 0.0
    shares = [fold.sum(1) / images for fold in correct]  # of one draw, in units of the overall share
    variance = sum(float(share.var(ddof=1)) / draws for share in shares)
    return float(t.ppf((1 + CONFIDENCE) / 2, len(correct) * (draws - 1))) * math.sqrt(variance)
