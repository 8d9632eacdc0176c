"""Intervals of scores from half-samples of the images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np

from parc.checks import whole_number
from parc.scores.inputs import Array

QUANTILES = (0.05, 0.95)
MAX_SHARE = 0.9
"""No interval is given if each half-sample would hold more than this share of the images, since the half-samples would
hardly differ."""

ONE_THREAD_UP_TO = 1000
"""Number of images up to which linear algebra is fastest in one thread."""


class HalfSamples:
    """Half-samples without replacement, stratified by class, and the intervals that they give.

    An interval is the score plus the 5 % and 95 % quantiles of the deviations of the half-samples' scores from their
    mean. To first order these deviations have the variance of the bootstrap. Unlike in the bootstrap, no image occurs
    twice: a duplicate would be its own nearest neighbour and form a pair with itself. A class keeps 2 of its images if
    it has them. If that leaves a share s > 1/2 of all images, the deviations are scaled by sqrt(s / (1 - s)), as in a
    delete-d jackknife. For s > 0.9 there is no interval.

    Use it as a context manager. Inside, half-samples are scored in as many threads as the linear algebra library has,
    and the library gets one thread in each. Up to `ONE_THREAD_UP_TO` images, everything inside the context runs with
    one thread of the library. More threads would mostly wait for one another, and on a busy machine they take ten
    times the processor time.

    Args:
        labels: Labels of all images. If they are classes, they are the strata.
        count: Number of half-samples; 0 for no intervals.
        seed: Seed of the random draw.
    """

    def __init__(self, labels: Array, count: int, seed: int) -> None:
        self.indices = _draw(labels, whole_number(count, "bootstraps"), whole_number(seed, "seed"))
        share = len(self.indices[0]) / len(labels) if self.indices else 0.5
        self._scale = float(np.sqrt(share / (1 - share)))
        self._small = len(labels) <= ONE_THREAD_UP_TO
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        from threadpoolctl import ThreadpoolController

        self._blas = ThreadpoolController().select(user_api="blas")
        threads = max((library["num_threads"] for library in self._blas.info()), default=1)
        if self._small:
            self._stack.enter_context(self._blas.limit(limits=1))
        if self.indices:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def interval(
        self, score: float, score_of: Callable[[Array], float], limits: tuple[float, float] = (-np.inf, np.inf)
    ) -> tuple[float | None, float | None]:
        """Return the ends of the interval, or None twice without half-samples or if one of them cannot be scored.

        Args:
            score: Score of all images.
            score_of: Function from the indices of some images to their score.
            limits: Smallest and largest value that the score can have. The interval ends there.
        """
        if self._pool is None:
            return None, None
        try:
            with warnings.catch_warnings(), self._blas.limit(limits=1):
                warnings.simplefilter("ignore")  # given for all images already, or true of the half only
                values = np.array(list(self._pool.map(score_of, self.indices)))
        except Exception:  # a half-sample has too few images for this score
            return None, None
        low, high = np.quantile(self._scale * (values - values.mean()), QUANTILES)
        return max(score + float(low), limits[0]), min(score + float(high), limits[1])


def _draw(labels: Array, count: int, seed: int) -> list[Array]:
    """Return half-samples as ascending indices, or none if they would hold almost all images."""
    rng = np.random.default_rng(seed)
    strata = [np.arange(len(labels))]
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        strata = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    half_samples = []
    for _ in range(count):
        round_up = rng.permutation(len(strata)) % 2  # half of the classes with an odd size keep the larger part
        sizes = [min(len(s), max(2, (len(s) + int(up)) // 2)) for s, up in zip(strata, round_up, strict=True)]
        if sum(sizes) > MAX_SHARE * len(labels):
            return []
        parts = [rng.permutation(stratum)[:size] for stratum, size in zip(strata, sizes, strict=True)]
        half_samples.append(np.sort(np.concatenate(parts)))
    return half_samples
