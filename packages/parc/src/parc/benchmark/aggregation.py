"""Measures how well each method in a table of scores predicts the truth, over groups, runs and resampled models."""

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
from parc.benchmark.tables import KEY, Array, Columns
from plm_core.errors import InputError


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The result of `aggregate`, one column per method. Correlations and rel@k are times 100, regret is in points.

    Attributes:
        methods: Names of the M methods.
        metric: Name of the metric.
        constants: Names of the columns that are constant within a group.
        keys: Values of the constants of the G groups, in the published order.
        mean: Mean over runs of the mean over groups, [M].
        variance: Population variance (ddof 0) over runs of the mean over groups, [M].
        each_mean: Mean over runs of each group, [G, M].
        each_variance: Population variance over runs of each group, [G, M].
        low: Lower end of the bootstrap interval of ``mean``, [M]; NaN if ``bootstraps=0``.
        high: Upper end of the interval, [M].
        missing: Number of scores that were NaN and counted as 0, as published, [M].
        resampled: ``mean`` on every resample, [B, M]. The draws are the same for all methods, so rows can be compared.
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
        """Return one mapping per method: method, mean, sd (over runs), low, high, missing, the mean of every group."""
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
        """Return the share of resamples in which one method beats another. Ties count half; NaN without resamples."""
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

    For each run and each combination of values of the constants, the metric is computed over the remaining rows. With
    the default constants these are the models on one target. The unweighted mean over the groups is the result of the
    run. Groups with fewer than 2 rows are skipped. A method that is constant within a group has no correlation there,
    and therefore no mean: NaN.

    The interval is a percentile bootstrap over the units that vary within a group: models by default, architectures for
    ``("target", "source")``, targets for ``("architecture", "source")``. It is wide because models are few. It is
    nevertheless optimistic, because models that share an architecture or a source are not independent.

    Example:
        >>> from parc import benchmark
        >>> static = benchmark.aggregate(benchmark.baselines("controlled"), "controlled", methods=["layers"])
        >>> round(static.rows()[0]["mean"], 1)
        50.9

    Args:
        scores: The columns ``architecture``, ``source``, ``target``, optionally ``run`` and ``oracle``, and one per
            method: a mapping of columns (a dict, a pandas DataFrame) or a list of mappings. The published spelling, as
            "Source Dataset", is allowed too. NaN counts as 0. Rows with equal source and target are ignored.
        oracle: The true accuracies, an `Oracle` or the name of a published one; None for the table's column ``oracle``
            if there is one, else "controlled". Rows with an accuracy of 0 or less are left out (after ``plasticity``).
        methods: Columns to judge; None for all remaining ones.
        constants: Some of "target", "source", "architecture"; none to pool all rows.
        metric: "pearson" (published), "spearman", "kendall", "kendall-w", "regret" or "rel@k".
        plasticity: Weight of the capacity heuristic, 1 in the paper: scores become (score - mean) / sd (ddof 1) +
            weight * layers / 50.
        plasticity_over: "table" for mean and sd over the whole table (published), or "target" for those within each
            target, which keeps scores comparable whose scale depends on the number of classes.
        layers: Depth by architecture; None for those of the oracle, or else of the paper.
        bootstraps: Number of resamples; 0 for no interval.
        level: Share of the resamples in the interval.
        seed: Seed of the resamples.

    Raises:
        InputError: A column is missing, not numeric or infinite; a transfer is unknown or occurs twice in a run; or no
            group has two rows.
        UnknownName: There is no such metric.
    """
    judge = metrics.find_metric(metric)
    scored = read_scores(scores, oracle, methods, layers)
    values = capacity(scored, plasticity, plasticity_over) if plasticity else scored.scores
    kept = scored.truth > 0
    keys = {name: scored.keys[name][kept] for name in KEY}
    runs, values, truth = scored.runs[kept], values[kept], scored.truth[kept]

    groups = _groups(keys, constants)
    units, draws = _draws(keys, constants, bootstraps, seed)
    by_group: dict[tuple[str, ...], list[Array]] = {}
    of_runs, resampled_runs = [], []
    for each_run in dict.fromkeys(runs.tolist()):
        of_run, resampled = [], []
        for key, members in groups.items():
            rows = members[runs[members] == each_run]
            if len(rows) < 2:
                continue
            value = _judged(judge, values[rows], truth[rows], np.ones((1, len(rows))))[0]
            by_group.setdefault(key, []).append(value)
            of_run.append(value)
            resampled.append(_judged(judge, values[rows], truth[rows], draws[:, units[rows]]))
        if of_run:
            of_runs.append(np.mean(of_run, 0))
            resampled_runs.append(_nanmean(np.stack(resampled)))
    if not of_runs:
        raise InputError(f"constants {tuple(constants)} leave no two rows of one run together; nothing can be judged")

    resamples = _nanmean(np.stack(resampled_runs))
    low, high = metrics.percentile_interval(resamples, level)
    ordered = [key for key in groups if key in by_group]
    return Aggregate(
        scored.methods,
        metric,
        tuple(constants),
        tuple(ordered),
        np.mean(of_runs, 0),
        np.var(of_runs, 0),
        np.stack([np.mean(by_group[key], 0) for key in ordered]),
        np.stack([np.var(by_group[key], 0) for key in ordered]),
        low,
        high,
        scored.missing,
        resamples,
    )


def _groups(keys: Columns, constants: Sequence[str]) -> dict[tuple[str, ...], NDArray[np.intp]]:
    """Return the rows of every combination of the constants' values, in the order of first appearance."""
    if unknown := [name for name in constants if name not in KEY]:
        raise InputError(f"constants has {unknown[0]!r}; {', '.join(KEY)} are allowed")
    values = [list(dict.fromkeys(keys[name].tolist())) for name in constants]
    rows: dict[tuple[str, ...], list[int]] = {}
    for index in range(len(keys["target"])):
        rows.setdefault(tuple(keys[name][index] for name in constants), []).append(index)
    return {key: np.array(rows[key]) for key in itertools.product(*values) if key in rows}


def _draws(keys: Columns, constants: Sequence[str], resamples: int, seed: int) -> tuple[NDArray[np.intp], Array]:
    """Return the unit of every row, [N], and how often each unit is drawn, [resamples, units]."""
    if resamples < 0:
        raise InputError(f"bootstraps is {resamples}; 0 or more is allowed")
    varied = [name for name in KEY if name not in constants]
    of_row = list(zip(*(keys[name].tolist() for name in (varied if constants else KEY[:2])), strict=True))
    number = {unit: index for index, unit in enumerate(dict.fromkeys(of_row))}
    draws = metrics.draw_counts(len(number), resamples, seed) if resamples else np.ones((0, len(number)))
    return np.array([number[unit] for unit in of_row], np.intp), draws


def _judged(judge: metrics.Metric, values: Array, truth: Array, counts: Array) -> Array:
    """Return the metric of every method on every resample, [B, M]; NaN if a resample drew none of the rows."""
    out = np.full((len(counts), values.shape[1]), np.nan)
    if drawn := np.flatnonzero(counts.sum(1)).tolist():
        for m in range(values.shape[1]):
            out[drawn, m] = judge.scale * judge.counted(values[:, m], truth, counts[drawn])
    return out


def _nanmean(values: Array) -> Array:
    """Return the mean over the first axis without NaN, or NaN if there is nothing else."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(0)
    return np.divide(total, defined.sum(0), out=np.full_like(total, np.nan), where=defined.any(0))
