"""Metrics of how well scores order models whose true accuracy is known.

Every metric is a function of how often each model was drawn (``counts``). A model that was drawn twice counts as two
models with the same score and truth. This makes a bootstrap one call with a matrix of counts instead of a thousand
calls. The correlation of a constant column is undefined, and the result is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc.benchmark.tables import Array
from plm_core.errors import InputError, UnknownName
from plm_core.utils.near_misses import miss

Counted = Callable[[Array, Array, Array], Array]  # scores [n], truth [n], counts [B, n] -> [B]


@dataclass(frozen=True)
class Metric:
    """A metric with its name.

    Attributes:
        name: Name in `find_metric`.
        counted: Function from scores [n], truth [n] and counts [B, n] to the metric [B].
        scale: Factor in the tables of the benchmark: 100 for correlations and ratios, as the paper prints them.
        higher_is_better: False for regret only.
    """

    name: str
    counted: Counted
    scale: float = 100.0
    higher_is_better: bool = True


def find_metric(name: str) -> Metric:
    """Find a metric by name: pearson, spearman, kendall, kendall-w, regret, rel@1, rel@3 or any other rel@k.

    Raises:
        UnknownName: There is no such metric. The message names similar ones.
    """
    if name.startswith("rel@") and name[4:].isdecimal() and int(name[4:]) > 0:
        return Metric(name, partial(_relative, k=int(name[4:])))
    if name not in METRICS:
        raise UnknownName(miss("metric", name, [*METRICS, "rel@1", "rel@3", "rel@5"]))
    return METRICS[name]


def pearson(scores: Any, truth: Any) -> float:
    """Compute the Pearson correlation in [-1, 1]; NaN if a column is constant.

    Args:
        scores: One score per model, [n].
        truth: True accuracies of the models, [n].
    """
    return _value(_pearson, scores, truth)


def spearman(scores: Any, truth: Any) -> float:
    """Compute the Spearman correlation in [-1, 1] (ties get their average rank); NaN if a column is constant."""
    return _value(_spearman, scores, truth)


def kendall(scores: Any, truth: Any) -> float:
    """Compute Kendall's tau-b in [-1, 1] (ties are neither right nor wrong); NaN if a column is constant."""
    return _value(_kendall, scores, truth)


def weighted_kendall(scores: Any, truth: Any) -> float:
    """Compute Kendall's tau in [-1, 1] with more weight on the top; NaN if a column is constant.

    A pair has the weight 1/(r_i + 1) + 1/(r_j + 1), where the rank r of the best model is 0. The result is the mean of
    two rankings, by score (ties by truth) and by truth (ties by score). This is ``scipy.stats.weightedtau`` with its
    defaults, the form in which LogME and later papers report it.
    """
    return _value(_weighted_kendall, scores, truth)


def regret(scores: Any, truth: Any) -> float:
    """Compute the top-1 regret: the best truth minus the truth of the model with the highest score.

    The unit is that of the truth. Models that tie for the highest score count with their mean truth.
    """
    return _value(_regret, scores, truth)


def relative_accuracy(scores: Any, truth: Any, k: int = 1) -> float:
    """Compute Rel@k: the mean truth of the k models with the highest scores, divided by the best truth.

    This is the metric of Table 7 in the supplement of the paper. Models that tie for the last places count with their
    mean truth. The result is NaN if no truth is above 0.

    Raises:
        InputError: k is not in 1..n.
    """
    if not 1 <= k <= len(scores):
        raise InputError(f"k is {k}; 1 to {len(scores)}, the number of models, is allowed")
    return _value(partial(_relative, k=k), scores, truth)


def bootstrap(
    name: str, scores: Any, truth: Any, resamples: int = 1000, level: float = 0.9, seed: int = 0
) -> tuple[float, float]:
    """Compute the percentile interval of a metric over resampled models.

    Resamples on which the metric is undefined (all models tie) are left out.

    Args:
        name: Name of the metric, see `find_metric`.
        scores: One score per model, [n].
        truth: True accuracies of the models, [n].
        resamples: Number of times that n models are drawn with replacement.
        level: Share of the resamples between the two ends.
        seed: Seed of the draws. NumPy's global state is not used.

    Returns:
        The low and the high end, unscaled; NaN if the metric is undefined on all resamples.
    """
    x, y = _checked(scores, truth)
    values = find_metric(name).counted(x, y, draw_counts(len(x), resamples, seed))
    low, high = percentile_interval(values[:, None], level)
    return float(low[0]), float(high[0])


def draw_counts(units: int, resamples: int, seed: int) -> Array:
    """Draw how often each of ``units`` is in each resample, [resamples, units]. Every row sums to ``units``."""
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; 1 or more is allowed")
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)


def percentile_interval(values: Array, level: float) -> tuple[Array, Array]:
    """Return the ends of the percentile interval of each column of [B, M]. NaN does not count."""
    if not 0 < level < 1:
        raise InputError(f"level is {level}; a share between 0 and 1 is needed")
    ends = np.full((2, values.shape[1]), np.nan)
    for column, of_column in enumerate(values.T):
        if len(defined := of_column[~np.isnan(of_column)]):
            ends[:, column] = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return ends[0], ends[1]


def _checked(scores: Any, truth: Any) -> tuple[Array, Array]:
    x, y = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise InputError(f"scores has shape {x.shape} and truth {y.shape}; one each for 2 models or more is needed")
    for name, values in (("scores", x), ("truth", y)):
        if not np.isfinite(values).all():
            raise InputError(f"{name} has {np.count_nonzero(~np.isfinite(values))} NaN or infinite values")
    return x, y


def _value(counted: Counted, scores: Any, truth: Any) -> float:
    x, y = _checked(scores, truth)
    return float(counted(x, y, np.ones((1, len(x))))[0])


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _unit(x: Array) -> Array:
    """Scale values to [0, 1], which changes no correlation and makes them safe to square."""
    spread = x.max() / 2 - x.min() / 2  # halves, because the difference may overflow
    return np.asarray(np.zeros_like(x) if spread == 0 else (x / 2 - x.min() / 2) / spread)


def _varies(x: Array, counts: Array) -> NDArray[np.bool_]:
    """Whether the drawn values differ. Unlike a variance, which rounding may leave above zero, this is exact."""
    drawn = counts > 0
    return np.where(drawn, x, -np.inf).max(-1) > np.where(drawn, x, np.inf).min(-1)


def _correlation(x: Array, y: Array, counts: Array) -> Array:
    """Return the Pearson correlation of values [n] or, if they depend on the draw, [B, n]."""
    total = counts.sum(-1, keepdims=True)
    dx = x - (counts * x).sum(-1, keepdims=True) / total
    dy = y - (counts * y).sum(-1, keepdims=True) / total
    below = np.sqrt((counts * dx * dx).sum(-1)) * np.sqrt((counts * dy * dy).sum(-1))
    return _ratio((counts * dx * dy).sum(-1), np.where(_varies(x, counts) & _varies(y, counts), below, 0.0))


def _pearson(x: Array, y: Array, counts: Array) -> Array:
    return _correlation(_unit(x), _unit(y), counts)


def _ranks(x: Array, counts: Array) -> Array:
    below, ties = x[:, None] < x, x[:, None] == x
    return counts @ below + (counts @ ties + 1) / 2


def _spearman(x: Array, y: Array, counts: Array) -> Array:
    return _correlation(_ranks(x, counts), _ranks(y, counts), counts)


def _signs(x: Array) -> Array:
    return np.sign(np.subtract.outer(_unit(x), _unit(x)))


def _concordance(x: Array, y: Array, left: Array, right: Array) -> Array:
    """Return tau, where the pair (i, j) has the weight left_i right_j. The weights are [B, n]."""
    sx, sy = _signs(x), _signs(y)

    def form(matrix: Array) -> Array:
        return np.einsum("bi,bi->b", left @ matrix, right)

    return _ratio(form(sx * sy), np.sqrt(form(np.abs(sx)) * form(np.abs(sy))))


def _kendall(x: Array, y: Array, counts: Array) -> Array:
    return _concordance(x, y, counts, counts)


def _weighted_kendall(x: Array, y: Array, counts: Array) -> Array:
    # 1/1 + ... + 1/m: a model that was drawn c times has the sum of the weights of its c ranks
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(counts.sum(-1).max()) + 1))])
    taus = []
    for order in (np.lexsort((y, x))[::-1], np.lexsort((x, y))[::-1]):
        weights = np.empty_like(counts)
        last = np.cumsum(counts[:, order], -1).astype(np.intp)
        weights[:, order] = harmonic[last] - harmonic[last - counts[:, order].astype(np.intp)]
        # additive weights, summed over both orders of a pair, are twice this form; the factor cancels
        taus.append(_concordance(x, y, weights, counts))
    return np.asarray((taus[0] + taus[1]) / 2)


def _best(y: Array, counts: Array) -> Array:
    return np.asarray(np.where(counts > 0, y, -np.inf).max(-1))


def _top_mean(x: Array, y: Array, counts: Array, k: int) -> Array:
    """Return the expected mean truth of the k highest scores if ties are broken at random."""
    levels, level = np.unique(-x, return_inverse=True)
    member = np.eye(len(levels))[level]  # [n, levels], highest score first
    size, total = counts @ member, (counts * y) @ member
    places = np.clip(k - (np.cumsum(size, -1) - size), 0, size)
    mean = np.divide(total, size, out=np.zeros_like(total), where=size > 0)
    return np.asarray((places * mean).sum(-1) / places.sum(-1))


def _regret(x: Array, y: Array, counts: Array) -> Array:
    return _best(y, counts) - _top_mean(x, y, counts, 1)


def _relative(x: Array, y: Array, counts: Array, k: int) -> Array:
    return _ratio(_top_mean(x, y, counts, k), _best(y, counts))


METRICS = {
    each.name: each
    for each in (
        Metric("pearson", _pearson),
        Metric("spearman", _spearman),
        Metric("kendall", _kendall),
        Metric("kendall-w", _weighted_kendall),
        Metric("regret", _regret, scale=1.0, higher_is_better=False),
    )
}
