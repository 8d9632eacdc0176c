"""`sweep`: merges up to every place where a model can be cut, with what they cost and how good they are."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from plm_core import InputError
from plm_core.utils import plots
from plm_core.utils.progress import track
from zipit.evaluation import flops
from zipit.observed import Observed, example_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
EVERYTHING = "everything"
"""What tables and plots call the merge of the whole models."""
COLOURS = ("#aa3377", "#4477aa", "#228833", "#ccbb44")
STYLES = ("-", "--", ":", "-.")


def sweep(
    models: Sequence[nn.Module],
    batches: Iterable[Any],
    evaluate: Callable[[nn.Module], float | Mapping[str, float]],
    *,
    method: str = "zipit",
    cuts: Sequence[str | None] | None = None,
    progress: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """Merge models up to one place after the other, and evaluate each merged model.

    Args:
        models: See `zipit.merge`.
        batches: See `zipit.merge`.
        evaluate: Called with each merged model, which returns one output, or, if it has heads, a list of them. It
            returns a number or several by their names.
        method: See `zipit.merge`.
        cuts: Places for ``until`` of `zipit.merge`, with None for a merge of everything. Without it, all of
            `zipit.cuts`, and then None.
        progress: Whether to show a progress bar on a terminal.
        **options: Other keywords of `zipit.merge`, such as ``a`` and ``b``.

    Returns:
        A row for each place: the scores, ``until``, and ``flops`` (as a share of those of all models together). A
        single number is named ``score``.

    Raises:
        InputError: See `zipit.merge`.
        NotSupported: See `zipit.merge`.
    """
    return rows_of(
        Observed(models, batches, progress=False), evaluate, method=method, cuts=cuts, progress=progress, **options
    )


def rows_of(
    seen: Observed,
    evaluate: Callable[[nn.Module], float | Mapping[str, float]],
    *,
    method: str = "zipit",
    cuts: Sequence[str | None] | None = None,
    progress: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """Return the rows of `sweep` for models that are observed already, or are to be merged by several methods.

    Args:
        seen: The models and their data.
        evaluate: See `sweep`.
        method: See `sweep`.
        cuts: See `sweep`.
        progress: See `sweep`.
        **options: Other keywords of `Observed.merge`.
    """
    if isinstance(cuts, str):
        raise InputError(f"cuts is {cuts!r}; a list is expected, such as [{cuts!r}, None]")
    cuts = [*(cut.name for cut in seen.plan.cuts), None] if cuts is None else cuts
    for until in cuts:
        seen.plan.cut_at(until)  # raises an error before anything is merged
    if len(cuts) > 1 and method != "weights":
        seen.observe(cuts)
    example = example_of(seen.models[0], seen.data)
    ensemble = sum(flops(model, example) for model in seen.models)
    rows: list[dict[str, Any]] = []
    for until in track(cuts, "sweep") if progress else cuts:
        merged = seen.merge(method, until, **options)
        rows.append({**_scores(evaluate(merged)), "until": until, "flops": flops(merged, example) / ensemble})
    return rows


def _scores(found: Any) -> Mapping[str, float]:
    if isinstance(found, Mapping):
        return found
    try:
        return {"score": float(found)}
    except (TypeError, ValueError) as e:
        raise InputError(f"evaluate returned {found!r}; a number, or numbers by their names, are expected") from e


def plot(curves: Mapping[str, Sequence[Row]], lines: Mapping[str, float] | None = None, score: str = "score") -> Figure:
    """Plot a score against the FLOPs.

    Args:
        curves: Rows of `sweep` by the name of a curve. Rows of several sweeps may be in one list: the curve is then
            their mean, with a bar of one standard deviation to each side.
        lines: Scores to compare with, such as those of the ensemble and of a single model, by their names.
        score: The score to plot.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    draw(axes, curves, lines or {}, score)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw(axes: Axes, curves: Mapping[str, Sequence[Row]], lines: Mapping[str, float], score: str) -> None:
    """Draw what `plot` plots, without a legend."""
    for place, (name, rows) in enumerate(curves.items()):
        points = []
        for until in dict.fromkeys(row["until"] for row in rows):
            found = [row for row in rows if row["until"] == until]
            scores = [row[score] for row in found]
            points.append((100 * found[0]["flops"], statistics.mean(scores), deviation(scores)))
        colour = COLOURS[place % len(COLOURS)]
        x, y, bars = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, bars, fmt="o-", color=colour, markersize=4, capsize=2, linewidth=1.2, label=name)
    for place, (name, value) in enumerate(lines.items()):
        axes.axhline(value, color="#777777", linestyle=STYLES[place % len(STYLES)], linewidth=1, label=name)
    axes.set_xlabel("FLOPs, % of all models")
    axes.set_ylabel(score)
    axes.spines[["top", "right"]].set_visible(False)


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of values that are a sample, or 0 of a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
