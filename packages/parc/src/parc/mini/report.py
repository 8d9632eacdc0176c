"""Reads the tables of the mini-benchmark: methods and baselines with intervals, as rows, Markdown and a picture.

    from parc.mini.report import load, summary

    summary(load(), "pearson")     # of the tables that are shipped

Models are not independent, because six of them share each source task. Intervals therefore come from a bootstrap over
the 8 sources, which keeps the models of a source together. An interval is made of the deviations of the resamples from
their own mean, placed around the result. Quantiles of the resamples themselves would be too low: a resample lacks a
third of the sources, which makes correlations and regrets smaller. 8 sources are few, so the intervals are coarse, and
they say nothing about other targets.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parc.benchmark import metrics
from parc.benchmark.tables import Array
from plm_core.utils import plots
from plm_core.utils.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHIPPED = Path(__file__).parents[1] / "data" / "mini"
RESAMPLES, LEVEL = 500, 0.9
METRICS = ("pearson", "kendall-w", "regret")
BASELINES = ("other targets", "width", "parameters", "layers", "at random")
TITLES = {"pearson": "Pearson x 100", "kendall-w": "weighted Kendall x 100", "regret": "top-1 regret, points"}


@dataclass(frozen=True, eq=False)
class Tables:
    """The benchmark's numbers for M models, T targets and R probes.

    Attributes:
        models: M names, ``architecture-width/source``.
        targets: T names.
        truth: Accuracy in percent after fine-tuning, mean over seeds, [M, T].
        error: Standard error of these means, [M, T].
        scores: Scores [R, M, T] by method; NaN if a score could not be computed.
    """

    models: tuple[str, ...]
    targets: tuple[str, ...]
    truth: Array
    error: Array
    scores: Mapping[str, Array]

    @property
    def sources(self) -> NDArray[np.int64]:
        """Index of each model's source, [M]."""
        names = [model.partition("/")[2] for model in self.models]
        order = list(dict.fromkeys(names))
        return np.array([order.index(name) for name in names])


@dataclass(frozen=True)
class Result:
    """The row of a method or baseline under one metric. Correlations are times 100, regret is in points of accuracy."""

    method: str
    baseline: bool
    mean: float
    """Mean over probes and targets."""
    low: float
    high: float
    """Ends of the 90 % interval over sources."""
    ahead: float
    """Percentage of resamples in which the row is better than the baseline ``other targets``; ties count half."""
    sd: float
    """Standard deviation over probes; 0 for baselines, which see no probe."""
    by_target: tuple[float, ...]


def load(folder: Path = SHIPPED) -> Tables:
    """Read ``truth.csv`` and ``scores-{run}.csv`` in a folder; by default the tables that are shipped."""
    rows = read_rows(folder / "truth.csv")
    models = tuple(dict.fromkeys(row["model"] for row in rows))
    targets = tuple(dict.fromkeys(row["target"] for row in rows))
    truth, error = (_matrix(rows, models, targets, column) for column in ("mean", "se"))
    runs = [read_rows(path) for path in sorted(folder.glob("scores-*.csv"))]
    methods = [name for name in (runs[0][0] if runs else {}) if name not in ("run", "model", "target")]
    scores = {method: np.stack([_matrix(run, models, targets, method) for run in runs]) for method in methods}
    return Tables(models, targets, truth, error, scores)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _matrix(rows: Sequence[Mapping[str, str]], models: Sequence[str], targets: Sequence[str], column: str) -> Array:
    table = np.full((len(models), len(targets)), np.nan)
    for row in rows:
        table[models.index(row["model"]), targets.index(row["target"])] = float(row[column] or "nan")
    return table


def baseline_scores(tables: Tables) -> dict[str, Array]:
    """Return the baselines, which need no image of the target, by name, each [1, M, T].

    ``other targets`` is the mean of the model's accuracy on all other targets, z-scored within each of them. It is the
    only baseline that uses results of fine-tuning.
    """
    z = (tables.truth - tables.truth.mean(0)) / tables.truth.std(0)
    others = (z.sum(1, keepdims=True) - z) / (z.shape[1] - 1)
    facts = [_facts(model) for model in tables.models]
    rows = {"other targets": others[None], "at random": np.zeros((1, *z.shape))}
    for i, name in enumerate(("width", "parameters", "layers")):
        rows[name] = np.broadcast_to(np.array([fact[i] for fact in facts], np.float64)[None, :, None], (1, *z.shape))
    return {name: rows[name] for name in BASELINES}


def _facts(model: str) -> tuple[float, float, float]:
    """Return the width of the features, the number of parameters without the head, and the number of layers."""
    from parc.mini.models import ARCHITECTURES

    architecture, _, width = model.partition("/")[0].partition("-")
    module = ARCHITECTURES[architecture].build(int(width), 2)
    head = 2 * int(width) + 2  # does not count, because fine-tuning replaces it
    count = sum(parameter.numel() for parameter in module.parameters()) - head
    return float(width), float(count), float(ARCHITECTURES[architecture].layers)


def summary(tables: Tables, metric: str = "pearson", seed: int = 0) -> list[Result]:
    """Return the rows of methods and baselines, best first. A missing score counts as the worst of its target.

    Args:
        tables: The tables, from `load`.
        metric: Name of the metric, see `parc.benchmark.metrics.find_metric`.
        seed: Seed of the bootstrap.
    """
    judge = metrics.find_metric(metric)
    sources = tables.sources
    drawn = metrics.draw_counts(int(sources.max()) + 1, RESAMPLES, seed)[:, sources]
    counts = np.concatenate([np.ones((1, len(sources))), drawn])
    static = baseline_scores(tables)
    values = {name: _values(scores, tables, judge, counts) for name, scores in {**tables.scores, **static}.items()}
    sign = -1 if judge.higher_is_better else 1
    rivals = sign * _resampled(values[BASELINES[0]])
    rows = [_result(name, name in static, of_name, sign, rivals) for name, of_name in values.items()]
    return sorted(rows, key=lambda row: (np.isnan(row.mean), sign * row.mean))


def _values(scores: Array, tables: Tables, judge: metrics.Metric, counts: Array) -> Array:
    """Return the metric by probe, target and row of counts, [R, T, B]."""
    truth = tables.truth.T
    return np.stack([[_judged(judge, s, t, counts) for s, t in zip(run.T, truth, strict=True)] for run in scores])


def _result(name: str, baseline: bool, values: Array, sign: int, rivals: Array) -> Result:
    whole, resampled = values[:, :, 0], _resampled(values)
    by_run, by_target = whole.mean(1), tuple(float(value) for value in whole.mean(0))
    mean = float(by_run.mean())
    low, high = metrics.percentile_interval((mean + resampled - np.mean(resampled))[:, None], LEVEL)
    ahead = 50 + 50 * float(np.mean(np.sign(rivals - sign * resampled)))
    return Result(name, baseline, mean, float(low[0]), float(high[0]), ahead, float(by_run.std()), by_target)


def _resampled(values: Array) -> Array:
    """Return the mean over probes and targets on each resample, [B - 1].

    A score may be constant on the few sources of a resample. Its undefined correlation then counts as 0.
    """
    useless = np.isnan(values) & ~np.isnan(values[:, :, :1])
    return np.asarray(np.where(useless, 0.0, values)[:, :, 1:].mean((0, 1)))


def _judged(judge: metrics.Metric, scores: Array, truth: Array, counts: Array) -> Array:
    """Return the metric for each row of counts, [B]."""
    lowest = np.nanmin(scores) if not np.isnan(scores).all() else 0.0
    return judge.scale * judge.counted(np.nan_to_num(scores, nan=lowest), truth, counts)


def ceiling(tables: Tables) -> Array:
    """Return the Pearson x 100 of a perfect score, by target, [T].

    It is below 100 because the truth is a mean over few seeds. It is the square root of the share of the models'
    variance that does not come from the seeds.
    """
    noise = (tables.error**2).mean(0)
    return 100 * np.sqrt(np.clip(1 - noise / tables.truth.var(0, ddof=1), 0, 1))


def markdown(tables: Tables) -> str:
    """Return the table of the README: every method and baseline under the three metrics, with intervals.

    The last column is the percentage of resamples in which a row's Pearson is above that of the first baseline.
    """
    of = {metric: {row.method: row for row in summary(tables, metric)} for metric in METRICS}
    heads = [*(TITLES[metric] for metric in METRICS), f"ahead of *{BASELINES[0]}*, %"]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, row in of["pearson"].items():
        cells = [_cell(of[metric][name]) for metric in METRICS]
        cells.append("" if np.isnan(row.ahead) or name == BASELINES[0] else f"{row.ahead:.0f}")
        lines.append(f"| {f'*{name}*' if row.baseline else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Result) -> str:
    if np.isnan(row.mean):
        return ""
    return f"{row.mean:.1f} ({row.low:.1f}, {row.high:.1f})"


def difficulty(tables: Tables) -> str:
    """Return a table of the targets: accuracies of the models, their standard error, and the ceiling of Pearson."""
    lines = [
        "| target | lowest, mean and highest accuracy | standard error | ceiling of Pearson |",
        "|---|---|---|---|",
    ]
    for i, name in enumerate(tables.targets):
        of_target, error = tables.truth[:, i], tables.error[:, i].mean()
        spread = " / ".join(f"{value:.0f}" for value in (of_target.min(), of_target.mean(), of_target.max()))
        lines.append(f"| {name} | {spread} | {error:.1f} | {ceiling(tables)[i]:.0f} |")
    return "\n".join(lines) + "\n"


def plot(tables: Tables) -> Figure:
    """Draw methods and baselines with their intervals, one panel for Pearson and one for regret."""
    figure = plots.figure("a plot", "parc[plot]", figsize=(9.6, 6.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("pearson", "regret"), strict=True):
        rows = [row for row in summary(tables, metric) if not np.isnan(row.mean)][::-1]
        for place, row in enumerate(rows):
            colour, marker = ("0.45", "D") if row.baseline else ("tab:blue", "o")
            axes.plot([row.low, row.high], [place, place], color=colour, lw=2.5, alpha=0.45, solid_capstyle="butt")
            axes.plot(row.mean, place, marker, color=colour, ms=5)
        axes.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=8)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color("0.35" if row.baseline else "black")
            label.set_style("italic" if row.baseline else "normal")
        better = "higher" if metric == "pearson" else "lower"
        axes.set_xlabel(f"{TITLES[metric]}, mean over {len(tables.targets)} targets ({better} is better)", fontsize=9)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Blue: scores of 200 images. Grey: baselines. Bars: 90 % over sources.", fontsize=10)
    return figure


def write_report(folder: Path) -> None:
    """Write ``mini.md`` and ``mini.png`` into the folder of the tables."""
    tables = load(folder)
    write_text(folder / "mini.md", f"{markdown(tables)}\n{difficulty(tables)}")
    with atomic_path(folder / "mini.png") as path:
        plot(tables).savefig(path, format="png", dpi=120)
