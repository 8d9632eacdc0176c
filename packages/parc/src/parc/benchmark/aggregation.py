"""How well each method of a table of scores predicts the truth: over groups, runs and resampled models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc.benchmark import metrics
from parc.benchmark.oracle import Oracle
from parc.benchmark.scoretable import capacity, read_scores
from parc.benchmark.tables import KEY, Columns
from plm_core.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What `aggregate` found, one column per method; correlations and rel@k times 100, regret in points.

    Attributes:
        methods: Names of the M methods.
        metric: Name of the metric.
        constants: What is held fixed within a group.
        keys: Values of the constants of the G groups, in the published order.
        mean: Over runs of the mean over groups, [M].
        variance: Over runs, population (ddof 0), [M].
        each_mean: Mean over runs of each group, [G, M].
        each_variance: Their population variance over runs, [G, M].
        low: Lower end of the bootstrap interval of ``mean``, [M]; NaN when ``bootstraps=0``.
        high: Its upper end, [M].
        missing: Scores that were NaN and counted as 0, as published, [M].
        resampled: ``mean`` on every resample, [B, M]; the same draws for all methods, so that rows can be compared.
    """

    methods: tuple[str, ...]
    metric: str
    constants: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    mean: Array
    variance: Array
    each_mean: Array
    each_variance: Array
    low: Array
    high: Array
    missing: NDArray[np.int64]
    resampled: Array = field(repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per method: method, mean, sd (over runs), low, high, missing, and the mean of every group."""
        return [
            {
                "method": method,
                "mean": float(self.mean[m]),
                "sd": float(np.sqrt(self.variance[m])),
                "low": float(self.low[m]),
                "high": float(self.high[m]),
                "missing": int(self.missing[m]),
                **{"/".join(key): float(self.each_mean[g, m]) for g, key in enumerate(self.keys) if key},
            }
            for m, method in enumerate(self.methods)
        ]

    def wins(self, method: str, over: str) -> float:
        """Share of the resamples in which one method is better than another; half for ties, NaN without any."""
        if not len(self.resampled):
            return float("nan")
        ahead = self.resampled[:, self.methods.index(method)] - self.resampled[:, self.methods.index(over)]
        if not metrics.find_metric(self.metric).higher_is_better:
            ahead = -ahead
        return float(np.mean(np.where(np.isnan(ahead), 0.5, (np.sign(ahead) + 1) / 2)))


def aggregate(
    scores: Any,
    oracle: Oracle | str | None = None,
    *,
    methods: Sequence[str] | None = None,
    constants: Sequence[str] = ("target",),
    metric: str = "pearson",
    plasticity: float = 0.0,
    plasticity_over: str = "table",
    layers: Mapping[str, float] | None = None,
    bootstraps: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Aggregate:
    """Judge methods by a table of their scores.

    For each run and each combination of values of the constants, the metric over the remaining rows (for the default,
    over the models on one target); their unweighted mean is the run's result. Groups of fewer than 2 rows are skipped.
    A method that is constant within a group has no correlation there, and then none on average: NaN.

    The interval is a percentile bootstrap over what varies within a group: models by default, architectures for
    ``("target", "source")``, targets for ``("architecture", "source")``. It is wide because models are few, and still
    optimistic, because models that share an architecture or a source are not independent.

    Args:
        scores: Columns ``architecture``, ``source``, ``target``, optionally ``run`` and ``oracle``, and one per method:
            a mapping of columns (a dict, a pandas DataFrame) or a list of mappings. The published spelling, as "Source
            Dataset", is read too. NaN counts as 0. Rows with equal source and target are ignored.
        oracle: True accuracies, an `Oracle` or the name of a bank; default, the table's column ``oracle`` if there is
            one, else "controlled". Rows with an accuracy of 0 or less are left out (after ``plasticity``).
        methods: Columns to judge; default, all that are left.
        constants: Some of "target", "source", "architecture"; none to pool all rows.
        metric: "pearson" (published), "spearman", "kendall", "kendall-w", "regret" or "rel@k".
        plasticity: Weight of the capacity heuristic, 1 in the paper: scores become (score - mean) / sd (ddof 1) +
            weight * layers / 50.
        plasticity_over: Mean and sd over the whole "table" (published) or within each "target", which keeps scores
            whose scale depends on the number of classes comparable.
        layers: Depth by architecture; default, the oracle's, else the paper's.
        bootstraps: Number of resamples; 0 for none.
        level: Share of the resamples in the interval.
        seed: Of the resamples.

    Raises:
        InputError: A column is missing, not numeric or infinite; a transfer is unknown or twice in a run; nothing left.
        UnknownName: No such metric.
    """
    judge = metrics.find_metric(metric)
    scored = read_scores(scores, oracle, methods, layers)
    values = capacity(scored, plasticity, plasticity_over) if plasticity else scored.scores
    kept = scored.truth > 0
    keys = {name: scored.keys[name][kept] for name in KEY}
    runs, values, truth = scored.runs[kept], values[kept], scored.truth[kept]

    groups = _groups(keys, constants)
    units, draws = _draws(keys, constants, bootstraps, seed)
    found: dict[tuple[str, ...], list[Array]] = {}
    of_runs, resampled_runs = [], []
    for each_run in dict.fromkeys(runs.tolist()):
        of_run, resampled = [], []
        for key, members in groups.items():
            rows = members[runs[members] == each_run]
            if len(rows) < 2:
                continue
            value = _judged(judge, values[rows], truth[rows], np.ones((1, len(rows))))[0]
            found.setdefault(key, []).append(value)
            of_run.append(value)
            resampled.append(_judged(judge, values[rows], truth[rows], draws[:, units[rows]]))
        if of_run:
            of_runs.append(np.mean(of_run, 0))
            resampled_runs.append(_nanmean(np.stack(resampled)))
    if not of_runs:
        raise InputError(f"constants {tuple(constants)} leave no two rows of one run together; nothing can be judged")

    resamples = _nanmean(np.stack(resampled_runs))
    low, high = metrics.percentile_interval(resamples, level)
    ordered = [key for key in groups if key in found]
    return Aggregate(
        scored.methods,
        metric,
        tuple(constants),
        tuple(ordered),
        np.mean(of_runs, 0),
        np.var(of_runs, 0),
        np.stack([np.mean(found[key], 0) for key in ordered]),
        np.stack([np.var(found[key], 0) for key in ordered]),
        low,
        high,
        scored.missing,
        resamples,
    )


def _groups(keys: Columns, constants: Sequence[str]) -> dict[tuple[str, ...], NDArray[np.intp]]:
    """Rows of every combination of the constants' values, each in order of first appearance."""
    if unknown := [name for name in constants if name not in KEY]:
        raise InputError(f"constants has {unknown[0]!r}; {', '.join(KEY)} are allowed")
    values = [list(dict.fromkeys(keys[name].tolist())) for name in constants]
    rows: dict[tuple[str, ...], list[int]] = {}
    for index in range(len(keys["target"])):
        rows.setdefault(tuple(keys[name][index] for name in constants), []).append(index)
    return {key: np.array(rows[key]) for key in itertools.product(*values) if key in rows}


def _draws(keys: Columns, constants: Sequence[str], resamples: int, seed: int) -> tuple[NDArray[np.intp], Array]:
    """The unit of every row, [N], and how often each unit is drawn, [resamples, units]."""
    if resamples < 0:
        raise InputError(f"bootstraps is {resamples}; 0 or more is allowed")
    varied = [name for name in KEY if name not in constants]
    of_row = list(zip(*(keys[name].tolist() for name in (varied if constants else KEY[:2])), strict=True))
    number = {unit: index for index, unit in enumerate(dict.fromkeys(of_row))}
    draws = metrics.draw_counts(len(number), resamples, seed) if resamples else np.ones((0, len(number)))
    return np.array([number[unit] for unit in of_row], np.intp), draws


def _judged(judge: metrics.Metric, values: Array, truth: Array, counts: Array) -> Array:
    """The metric of every method on every resample, [B, M]; NaN on a resample that drew none of the rows."""
    out = np.full((len(counts), values.shape[1]), np.nan)
    if drawn := np.flatnonzero(counts.sum(1)).tolist():
        for m in range(values.shape[1]):
            out[drawn, m] = judge.scale * judge.counted(values[:, m], truth, counts[drawn])
    return out


def _nanmean(values: Array) -> Array:
    """Mean over the first axis without NaN; NaN where there is nothing else."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(0)
    return np.divide(total, defined.sum(0), out=np.full_like(total, np.nan), where=defined.any(0))
