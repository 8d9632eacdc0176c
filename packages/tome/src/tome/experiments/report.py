"""Tables and figures of the measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#aaaaaa")
MERGING_COLOURS = {
    "off the shelf": "#4477aa",
    "without proportional attention": "#bbbbbb",
    "finetuned while merging": "#228833",
}


def plot_merging(rows: Sequence[Row]) -> Figure:
    """Plot accuracy by r, from the rows of `tome.experiments.merging.measure`."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(5.2, 3.4), layout="constrained")
    ax = figure.subplots()
    for name, colour in MERGING_COLOURS.items():
        measured = [row for row in rows if name in row]
        ax.plot([row["r"] for row in measured], [row[name] for row in measured], color=colour, marker="o", label=name)
    ax.set_xticks([row["r"] for row in rows], [f"{row['r']}\n{row['tokens']}" for row in rows])
    ax.set_xlabel("r, and tokens left of 145")
    ax.set_ylabel("held-out top-1 in %")
    ax.legend(fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_studies(studies: Mapping[str, Sequence[Row]]) -> Figure:
    """Plot accuracy by the number of tokens left, with a panel for each study.

    Lines are the mean over the seeds; bands reach from the lowest to the highest seed.
    """
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(4.4 * len(studies) + 0.4, 3.4), layout="constrained")
    axes = figure.subplots(1, len(studies), squeeze=False)[0]
    for ax, (title, rows) in zip(axes, studies.items(), strict=True):
        for way, colour in zip(_ways(rows), COLOURS, strict=False):
            _, left, scores = zip(*over_seeds(rows, way), strict=True)
            ax.plot(left, [np.mean(s) for s in scores], color=colour, marker="o", markersize=3, label=way)
            ax.fill_between(left, [min(s) for s in scores], [max(s) for s in scores], color=colour, alpha=0.13, lw=0)
        ax.invert_xaxis()
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("tokens left after four blocks, of 65")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out top-1 in %")
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of one study, with a line for each method and a column for each r.

    A cell is the mean over the seeds, with the lowest and the highest in brackets.
    """
    lines: list[str] = []
    for way in _ways(rows):
        columns = over_seeds(rows, way)
        if not lines:
            lines.append("| r (tokens left) | " + " | ".join(f"{r} ({left})" for r, left, _ in columns) + " |")
            lines.append("|---" * (len(columns) + 1) + "|")
        cells = (f"{np.mean(scores):.1f} ({min(scores):.1f}-{max(scores):.1f})" for _, _, scores in columns)
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def over_seeds(rows: Sequence[Row], way: str) -> list[tuple[int, int, list[float]]]:
    """Return (r, tokens left, accuracy of each seed) for one method, sorted by r."""
    of_way = [row for row in rows if row["way"] == way]
    keys = sorted({(row["r"], row["tokens"]) for row in of_way})
    return [(r, left, [row["top1"] for row in of_way if row["r"] == r]) for r, left in keys]


def _ways(rows: Sequence[Row]) -> list[str]:
    """Return the names of the methods in the rows, in the order of their first row."""
    return list(dict.fromkeys(row["way"] for row in rows))
