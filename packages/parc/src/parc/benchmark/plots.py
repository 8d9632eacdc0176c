"""Plots of the benchmark. Figures do not use pyplot, so no global state changes and no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parc.benchmark.aggregation import Aggregate
from parc.benchmark.metrics import find_metric, pearson
from parc.benchmark.oracle import Oracle
from parc.benchmark.scoretable import read_scores
from parc.benchmark.tables import KEY, Array, Columns
from plm_core.errors import InputError
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD, BASELINE = "tab:blue", "0.55"
UNITS = {"regret": "top-1 regret, points of accuracy (lower is better)"}


def plot(results: Aggregate | Sequence[Aggregate], title: str = "") -> Figure:
    """Draw methods with their intervals, best first. All results after the first are drawn as baselines.

    Args:
        results: One `Aggregate`, or one of methods and others of baselines, all of one metric.
        title: Title above the axes.

    Returns:
        A figure. Its method ``savefig`` writes it to a file.

    Raises:
        InputError: There are no results, or they are of several metrics.
        MissingDependency: matplotlib is not installed.
    """
    return _intervals([results] if isinstance(results, Aggregate) else list(results), title)


def plot_scatter(scores: Any, method: str, oracle: Oracle | str | None = None, title: str = "") -> Figure:
    """Draw a method's scores (mean over runs) against the truth, with one panel per target.

    The colour tells the architecture.

    Args:
        scores: See `aggregate`.
        method: Name of the method.
        oracle: See `aggregate`.
        title: Title above the panels.
    """
    scored = read_scores(scores, oracle, [method], None)
    kept = scored.truth > 0
    keys = {name: scored.keys[name][kept] for name in KEY}
    return _scatter(keys, scored.scores[kept, 0], scored.truth[kept], method, title)


def _figure(width: float, height: float) -> Figure:
    return plots.figure("a plot", "parc[plot]", figsize=(width, height), layout="constrained")


def _intervals(results: list[Aggregate], title: str) -> Figure:
    """Draw means and bootstrap intervals, the best at the top."""
    if not results or len({result.metric for result in results}) > 1:
        named = ", ".join(result.metric for result in results) or "none"
        raise InputError(f"results has metrics {named}; one or more results of one metric are needed")
    rows = [
        (float(result.mean[m]), float(result.low[m]), float(result.high[m]), method, METHOD if not number else BASELINE)
        for number, result in enumerate(results)
        for m, method in enumerate(result.methods)
        if not np.isnan(result.mean[m])  # a row without a mean has no place on the axis
    ]
    rows.sort(key=lambda row: row[0], reverse=not find_metric(results[0].metric).higher_is_better)
    figure = _figure(7, 1.2 + 0.28 * len(rows))
    axes = figure.add_subplot()
    for place, (mean, low, high, _, colour) in enumerate(rows):
        axes.plot([low, high], [place, place], color=colour, lw=2, alpha=0.5, solid_capstyle="butt")
        axes.plot(mean, place, "o" if colour == METHOD else "D", color=colour, ms=6)
    axes.set_yticks(range(len(rows)), [row[3] for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(row[4])
    axes.set_xlabel(UNITS.get(results[0].metric, f"{results[0].metric} x 100, mean over groups"))
    if len(results) > 1:
        title = f"{title}\n" if title else ""
        title += "blue: scores; grey: baselines that look at no feature"
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _scatter(keys: Columns, scores: Array, truth: Array, method: str, title: str) -> Figure:
    """Draw scores against the truth, with one panel per target that gives its correlation."""
    targets = list(dict.fromkeys(keys["target"].tolist()))
    architectures = list(dict.fromkeys(keys["architecture"].tolist()))
    columns = min(3, len(targets))
    lines = -(-len(targets) // columns)
    figure = _figure(3.4 * columns, 2.9 * lines + 0.6)
    for place, target in enumerate(targets):
        axes = figure.add_subplot(lines, columns, place + 1)
        own = keys["target"] == target
        x, y, architecture_of = _mean_over_runs(keys, scores, truth, own)
        for number, architecture in enumerate(architectures):
            own_points = architecture_of == architecture
            axes.plot(x[own_points], y[own_points], "o", color=f"C{number % 10}", ms=4, label=architecture)
        r = pearson(x, y) if len(x) > 1 else np.nan
        axes.set_title(f"{target} (r = {r:.2f})", fontsize=9)
        axes.set_xlabel(method, fontsize=8)
        axes.set_ylabel("truth", fontsize=8)
        axes.tick_params(labelsize=7)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _mean_over_runs(
    keys: Columns, scores: Array, truth: Array, rows: NDArray[np.bool_]
) -> tuple[Array, Array, NDArray[np.str_]]:
    """Return the mean score, the truth and the architecture of each model."""
    models: dict[tuple[str, str], list[int]] = {}
    for index in np.flatnonzero(rows).tolist():
        models.setdefault((str(keys["architecture"][index]), str(keys["source"][index])), []).append(index)
    x = np.array([scores[of_model].mean() for of_model in models.values()])
    y = np.array([truth[of_model[0]] for of_model in models.values()])
    return x, y, np.array([architecture for architecture, _ in models])
