"""A ranking for people to read: a table and a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parc.ranking.outcomes import RankedRow, by_model, mean_rank
from parc.writing import EXTRA
from plm_core.utils import plots
from plm_core.utils.text import millions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 4
"""Largest number of panels of a picture that stand beside each other."""
TITLE = 30
"""Characters of a method that fit above its panel."""


def table(rows: Sequence[RankedRow]) -> list[dict[str, Any]]:
    """Return one row per model: scores with their intervals, mean rank and cost.

    A mean rank over fewer methods than there are says so, since it is of another kind than those of other models.
    """
    return [_line(model, of_model) for model, of_model in by_model(rows).items()]


def _line(model: str, rows: Mapping[str, RankedRow]) -> dict[str, Any]:
    first = next(iter(rows.values()))
    mean = mean_rank(rows.values())
    ranked = sum(row.rank is not None for row in rows.values())
    of = f" ({ranked} of {len(rows)})" if ranked < len(rows) else ""
    return {
        "model": model,
        "rank": first.rank,
        **{method: _score(row) for method, row in rows.items()},
        "mean rank": None if mean is None else f"{mean:.3g}{of}",
        "size": millions(first.params) if first.params else None,
        "extract, s": _seconds(first.extract_seconds) + (" (cached)" if first.cached else ""),
        "score, s": _seconds(sum(row.score_seconds for row in rows.values())),
        "problem": _problem(rows),
    }


def _score(row: RankedRow) -> str | None:
    if row.score is None:
        return None
    score, *ends = (f"{x:#.4g}".rstrip(".") for x in (row.score, row.low, row.high) if x is not None)
    return f"{score} [{', '.join(ends)}]" if len(ends) == 2 else score


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds else ""


def _problem(rows: Mapping[str, RankedRow]) -> str:
    """Say why scores are missing, once if the reason is the same for all methods."""
    errors = {method: row.error for method, row in rows.items() if row.error}
    if len(errors) == len(rows) and len(set(errors.values())) == 1:
        return next(iter(errors.values()))
    return "; ".join(error if error.startswith(method) else f"{method}: {error}" for method, error in errors.items())


def figure(rows: Sequence[RankedRow], title: str) -> Figure:
    """Draw the scores of each method with their intervals, the best model on top, and the sizes of the models.

    The panels stand in rows of at most `PANELS`, which are about equally long.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    models = {
        model: of_model
        for model, of_model in by_model(rows).items()
        if any(row.score is not None for row in of_model.values())
    }
    sizes = [of_model[methods[0]].params / 1e6 for of_model in models.values()]
    panels = len(methods) + 1
    lines = math.ceil(panels / PANELS)
    columns = math.ceil(panels / lines)
    size = (3 + 2.6 * columns, 0.4 + lines * (1.2 + 0.3 * max(4, len(models))))
    picture = plots.figure("a picture", EXTRA, figsize=size, layout="constrained")
    grid = picture.subplots(lines, columns, sharey=True, squeeze=False)
    axes, spare = grid.flat[:panels], grid.flat[panels:]
    for method, axis in zip(methods, axes, strict=False):
        _draw_scores(axis, method, [of_model[method] for of_model in models.values()])
    axes[-1].barh(range(len(models)), sizes, color="0.75", height=0.6)
    axes[-1].set_title("parameters, millions", fontsize=10)
    if sizes and min(sizes) > 0 and max(sizes) > 30 * min(sizes):
        axes[-1].set_xscale("log")
        plots.label_powers(axes[-1])
    axes[0].invert_yaxis()
    for axis in grid[:, 0]:
        axis.set_yticks(range(len(models)), list(models), fontsize=8)
    for axis in axes:
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in spare:
        axis.remove()
    picture.suptitle(title, fontsize=10)
    return picture


def _draw_scores(axis: Any, method: str, rows: Sequence[RankedRow]) -> None:
    in_words = method.replace(",", ", ")  # so that a long name is broken between its options
    axis.set_title(textwrap.fill(in_words, TITLE, break_on_hyphens=False), fontsize=10)
    axis.set_xlabel("higher is better", fontsize=8)
    for place, row in enumerate(rows):
        if row.score is None:
            continue
        if row.low is not None and row.high is not None and math.isfinite(row.low) and math.isfinite(row.high):
            axis.plot([row.low, row.high], [place, place], color="0.6", linewidth=2, solid_capstyle="butt")
        axis.plot(row.score, place, "o", color="C0" if row.rank != 1 else "C3", markersize=5)
