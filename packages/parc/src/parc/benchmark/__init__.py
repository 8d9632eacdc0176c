"""The benchmark: how well do scores predict which model fine-tunes best (paper 3; facts 3)?

table = benchmark.run(bank, labels, ["parc:pca=32", "knn"])   # or a table of scores from anywhere
result = benchmark.aggregate(table, "controlled", plasticity=1)
benchmark.plot([result, benchmark.aggregate(benchmark.baselines("controlled"), "controlled")])
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parc.benchmark import metrics
from parc.benchmark.aggregation import Aggregate, aggregate
from parc.benchmark.oracle import Oracle, load, table
from parc.benchmark.scoretable import read_scores
from parc.benchmark.static_baselines import baselines
from parc.benchmark.tables import KEY, Columns, columns
from plm_core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parc.scoring import Features

__all__ = ["Aggregate", "aggregate", "baselines", "compare", "markdown", "plot", "plot_scatter", "run"]

METRICS = ("pearson", "kendall-w", "spearman", "regret", "rel@1", "rel@3")


def compare(
    scores: Any,
    oracle: Oracle | str | None = None,
    *,
    metric: Sequence[str] = METRICS,
    facts: Mapping[str, Mapping[str, float]] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Methods and the static `baselines` side by side under several metrics, best first by the first metric.

    The baselines are judged on the transfers that the scores cover.

    Args:
        scores: As for `aggregate`.
        oracle: As for `aggregate`.
        metric: Names of the metrics.
        facts: More baselines by architecture, as in `baselines`.
        **options: As for `aggregate`; ``plasticity`` is not applied to the baselines.

    Returns:
        One mapping per row: method, baseline (bool), missing (scores that were NaN and count as 0, so that a method
        without any does as well as chance), and per metric its mean, "<metric> low" and "<metric> high".
    """
    truth = _truth(scores, oracle, options.get("layers"))
    static = _covered(baselines(truth, **(facts or {})), scores)
    plain = {k: v for k, v in options.items() if k not in ("plasticity", "plasticity_over", "methods")}
    rows: dict[tuple[bool, str], dict[str, Any]] = {}
    for name in metric:
        results = aggregate(scores, truth, metric=name, **options), aggregate(static, truth, metric=name, **plain)
        for is_baseline, result in zip((False, True), results, strict=True):
            for row in result.rows():
                start = {"method": row["method"], "baseline": is_baseline, "missing": row["missing"]}
                into = rows.setdefault((is_baseline, row["method"]), start)
                into |= {name: row["mean"], f"{name} low": row["low"], f"{name} high": row["high"]}
    sign = 1 if metrics.metric(metric[0]).higher_is_better else -1
    # undefined rows last
    return sorted(rows.values(), key=lambda row: (np.isnan(row[metric[0]]), -sign * row[metric[0]]))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `compare` or `Aggregate.rows` as a Markdown table; "x low" and "x high" become an interval of x."""
    if not rows:
        raise InputError("rows is empty; a table needs one")
    ends = {end if name == "mean" else f"{name} {end}" for name in rows[0] for end in ("low", "high")}
    names = [name for name in rows[0] if name not in ends]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = [_cell(row, name) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(
    bank: Mapping[tuple[Any, ...], Features],
    labels: Mapping[Any, Any],
    methods: Sequence[str],
    *,
    pca: int | str | None = None,
    num_classes: Mapping[str, int] | None = None,
) -> Columns:
    """Score features of your own: from features to the table that `aggregate` reads.

    Args:
        bank: Features by (architecture, source, target) or (architecture, source, target, run).
        labels: Labels of the probe by target, or by (target, run).
        methods: As `parc.score_bank` takes them, with options as in "parc:pca=32".
        pca: Components to reduce all features to, as in `parc.score`.
        num_classes: Nominal class count by target.

    Returns:
        Columns run, architecture, source, target and one per method; NaN where a score could not be computed, with one
        warning that gives the first reason.
    """
    from parc.scoring import score_bank

    probes: dict[tuple[str, int], dict[str, tuple[Any, ...]]] = {}
    for key in bank:
        if len(key) not in (3, 4):
            raise InputError(f"bank has key {key!r}; (architecture, source, target) or with a run is needed")
        of_probe = probes.setdefault((key[2], key[3] if len(key) == 4 else 0), {})
        of_probe[f"{key[0]}/{key[1]}"] = key
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for (target, number), of_probe in probes.items():
        named = labels.get((target, number), labels.get(target))
        if named is None:
            raise InputError(f"labels has neither {target!r} nor {(target, number)!r}")
        models = {name: bank[key] for name, key in of_probe.items()}
        classes = (num_classes or {}).get(target)
        scored: dict[str, dict[str, float]] = {name: {} for name in models}
        for row in score_bank(models, named, methods, pca=pca, num_classes=classes):
            scored[row.model][row.method] = float("nan") if row.error or row.score is None else row.score
            if row.error:
                failures.append(f"{row.method} of {row.model} on {target}: {row.error}")
        rows += [
            {"run": number, **dict(zip(KEY, of_probe[name], strict=False)), **of_model}
            for name, of_model in scored.items()
        ]
    if failures:
        warnings.warn(
            f"{len(failures)} scores could not be computed and are NaN; the first: {failures[0]}", stacklevel=2
        )
    return columns(rows)


def plot(results: Aggregate | Sequence[Aggregate], title: str = "") -> Figure:
    """Methods with their intervals, best first; from the second result on, they are drawn as baselines.

    Args:
        results: One `Aggregate`, or methods and baselines; of one metric.
        title: Above the axes.

    Returns:
        A ``matplotlib.figure.Figure``; its ``savefig`` writes it.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    from parc.benchmark.plots import intervals

    return intervals([results] if isinstance(results, Aggregate) else list(results), title)


def plot_scatter(scores: Any, method: str, oracle: Oracle | str | None = None, title: str = "") -> Figure:
    """A method's scores against the truth, one panel per target, one colour per architecture (mean over runs)."""
    from parc.benchmark.plots import scatter

    scored = read_scores(scores, oracle, [method], None)
    kept = scored.truth > 0
    keys = {name: scored.keys[name][kept] for name in KEY}
    return scatter(keys, scored.scores[kept, 0], scored.truth[kept], method, title)


def _truth(scores: Any, oracle: Oracle | str | None, layers: Mapping[str, float] | None) -> Oracle | str:
    """The oracle that `aggregate` would use, made of the table's own column where it has one."""
    if oracle is not None:
        return oracle
    read = columns(scores)
    if "oracle" not in read:
        return load()
    first = dict.fromkeys(zip(*(read[name].tolist() for name in (*KEY, "oracle")), strict=True))
    names = (*KEY, "oracle")
    rows = [dict(zip(names, values, strict=True)) for values in first if values[1] != values[2]]
    return table(rows, layers=layers)


def _covered(static: Columns, scores: Any) -> Columns:
    read = columns(scores)
    scored = set(zip(*(read[name].astype(str).tolist() for name in KEY), strict=True))
    keys = zip(*(static[name].tolist() for name in KEY), strict=True)
    covered = np.array([key in scored for key in keys])
    return {name: values[covered] for name, values in static.items()}


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if isinstance(value, bool):
        return "yes" if value else ""
    if not isinstance(value, float):
        return str(value)
    prefix = "" if name == "mean" else f"{name} "
    low, high = row.get(f"{prefix}low", np.nan), row.get(f"{prefix}high", np.nan)
    return f"{value:.1f}" if np.isnan(low) else f"{value:.1f} ({low:.1f}, {high:.1f})"
