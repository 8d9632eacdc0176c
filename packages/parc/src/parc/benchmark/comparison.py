"""Methods beside static baselines, as rows and as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parc.benchmark.aggregation import aggregate
from parc.benchmark.metrics import find_metric
from parc.benchmark.oracle import Oracle, load_oracle, make_oracle
from parc.benchmark.static_baselines import baselines
from parc.benchmark.tables import KEY, Columns, columns
from plm_core.errors import InputError

METRICS = ("pearson", "kendall-w", "spearman", "regret", "rel@1", "rel@3")


def compare(
    scores: Any,
    oracle: Oracle | str | None = None,
    *,
    metric: Sequence[str] = METRICS,
    facts: Mapping[str, Mapping[str, float]] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Compare methods with the static `baselines` under several metrics, best first by the first metric.

    The baselines are judged on the transfers that the scores cover.

    Args:
        scores: See `aggregate`.
        oracle: See `aggregate`.
        metric: Names of the metrics.
        facts: Additional baselines by architecture, see `baselines`.
        **options: Other arguments of `aggregate`. ``plasticity`` is not applied to the baselines.

    Returns:
        One mapping per row: method, baseline (bool), missing (the number of scores that were NaN and count as 0, so a
        method with no score at all does as well as chance), and for each metric its mean, "<metric> low" and
        "<metric> high".
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
    sign = 1 if find_metric(metric[0]).higher_is_better else -1
    # rows without a value come last
    return sorted(rows.values(), key=lambda row: (np.isnan(row[metric[0]]), -sign * row[metric[0]]))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `compare` or `Aggregate.rows` as a Markdown table.

    The columns "x low" and "x high" become the interval of x.

    Raises:
        InputError: There are no rows.
    """
    if not rows:
        raise InputError("rows is empty; a table needs one")
    ends = {end if name == "mean" else f"{name} {end}" for name in rows[0] for end in ("low", "high")}
    names = [name for name in rows[0] if name not in ends]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = [_cell(row, name) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _truth(scores: Any, oracle: Oracle | str | None, layers: Mapping[str, float] | None) -> Oracle | str:
    """Return the oracle that `aggregate` would use, from the table's own column if there is one."""
    if oracle is not None:
        return oracle
    table = columns(scores)
    if "oracle" not in table:
        return load_oracle()
    first = dict.fromkeys(zip(*(table[name].tolist() for name in (*KEY, "oracle")), strict=True))
    names = (*KEY, "oracle")
    rows = [dict(zip(names, values, strict=True)) for values in first if values[1] != values[2]]
    return make_oracle(rows, layers=layers)


def _covered(static: Columns, scores: Any) -> Columns:
    """Return the static rows of the transfers that the scores cover."""
    table = columns(scores)
    scored = set(zip(*(table[name].astype(str).tolist() for name in KEY), strict=True))
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
