"""Intervals of scores by half-samples of the images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np

from parc.scores.inputs import Array
from plm_core.errors import InputError

QUANTILES = (0.05, 0.95)
MOST = 0.9
"""With a larger share of the images in every half-sample they say nothing of the whole."""

SMALL = 1000
"""Images up to which one thread is best for linear algebra."""


class Halves:
    """Half-samples without replacement, stratified by class, and the intervals that they give.

    An interval is the score plus the 5 % and 95 % quantiles of what the half-samples' scores deviate from their mean.
    To first order their variance is the bootstrap's, and no image occurs twice, which would make a neighbour and a pair
    of its own. A class keeps 2 of its images if it has them. Where that leaves a share s > 1/2 of all images, the
    deviations are scaled by sqrt(s / (1 - s)), as in a delete-d jackknife; for s > 0.9 there is no interval.

    Use as a context: half-samples are scored in as many threads as the linear algebra library has, which gets one in
    each. Up to `SMALL` images it keeps to one for all that happens in the context: its threads would mostly wait for
    one another, and on a busy machine they take ten times the processor's time.

    Args:
        labels: Of all images; strata where they are classes.
        count: Number of half-samples; 0 for no intervals.
        seed: Of the draw.
    """

    def __init__(self, labels: Array, count: int, seed: int) -> None:
        if count < 0:
            raise InputError(f"bootstraps={count} is not allowed; 0 or more is")
        self.indices = _draw(labels, count, seed)
        share = len(self.indices[0]) / len(labels) if self.indices else 0.5
        self._scale = float(np.sqrt(share / (1 - share)))
        self._small = len(labels) <= SMALL
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

    def interval(self, score: float, of: Callable[[Array], float]) -> tuple[float | None, float | None]:
        """Low and high end around a score; none without half-samples, or when one of them cannot be scored.

        Args:
            score: Of all images.
            of: The score of those at the given indices.
        """
        if self._pool is None:
            return None, None
        try:
            with warnings.catch_warnings(), self._blas.limit(limits=1):
                warnings.simplefilter("ignore")  # said of all images, or true of the half only
                values = np.array(list(self._pool.map(of, self.indices)))
        except Exception:  # too few images for this score
            return None, None
        low, high = np.quantile(self._scale * (values - values.mean()), QUANTILES)
        return score + float(low), score + float(high)


def _draw(labels: Array, count: int, seed: int) -> list[Array]:
    """Half-samples as ascending indices; none where they would hold almost all images."""
    rng = np.random.default_rng(seed)
    strata = [np.arange(len(labels))]
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        strata = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    halves = []
    for _ in range(count):
        odd = rng.permutation(len(strata)) % 2  # of classes of an odd size, half keep the larger part
        sizes = [min(len(s), max(2, (len(s) + int(o)) // 2)) for s, o in zip(strata, odd, strict=True)]
        if sum(sizes) > MOST * len(labels):
            return []
        halves.append(np.sort(np.concatenate([rng.permutation(s)[:n] for s, n in zip(strata, sizes, strict=True)])))
    return halves
