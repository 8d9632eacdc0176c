"""A probing for people to read: a table, and a picture of the few-shot curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from parc.probing.outcomes import VAL, ProbeRow, by_model
from parc.writing import EXTRA
from plm_core.utils import plots
from plm_core.utils.text import millions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "bright" scheme, which colour-blind people can tell apart. Markers help where there are more models.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
MARKERS = ("o", "s", "^", "D", "v")


def table(rows: Sequence[ProbeRow]) -> list[dict[str, Any]]:
    """Return one row per model: accuracies in percent with their intervals, and cost."""
    return [_line(of_model) for of_model in by_model(rows).values()]


def _line(rows: Sequence[ProbeRow]) -> dict[str, Any]:
    first = rows[0]
    return {
        "model": first.model,
        "rank": first.rank,
        **{_name(row): _accuracy(row) for row in rows},
        "size": millions(first.params) if first.params else None,
        "extract, s": f"{first.extract_seconds:.3g}{' (cached)' * first.cached}" if first.extract_seconds else "",
        "fit, s": f"{first.fit_seconds:.3g}" if first.fit_seconds else "",
        "problem": first.error,
    }


def _name(row: ProbeRow) -> str:
    if row.judged == VAL:
        return "val"
    return "accuracy" if row.shots is None else f"{row.shots} shot{'s' * (row.shots > 1)}"


def _accuracy(row: ProbeRow) -> str | None:
    return None if row.accuracy is None else f"{row.accuracy:.1f} [{row.low:.1f}, {row.high:.1f}]"


def figure(rows: Sequence[ProbeRow], about: Mapping[str, Any]) -> Figure:
    """Draw the accuracy of each model over the number of images per class, with the intervals.

    The last point is the accuracy with all images. Without few-shot trainings it is the only one, and the models stand
    below each other.
    """
    models = {
        model: [row for row in of_model if row.judged != VAL]
        for model, of_model in by_model(rows).items()
        if of_model[0].accuracy is not None
    }
    curves = any(len(of_model) > 1 for of_model in models.values())
    height = 4.2 if curves else 1.6 + 0.35 * max(3, len(models))
    picture = plots.figure("a picture", EXTRA, figsize=(7.5, height), layout="constrained")
    axis = picture.subplots()
    if curves:
        _draw_curves(axis, models, about)
    else:
        _draw_dots(axis, models)
    axis.set_title(f"{about['dataset']}: {about['images']} {about['kind']}, {about['classes']} classes", fontsize=10)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return picture


def _draw_curves(axis: Axes, models: Mapping[str, Sequence[ProbeRow]], about: Mapping[str, Any]) -> None:
    """Draw a line per model. Each is shifted a little, so that intervals at the same number of images stay visible."""
    all_images = about["images_per_class"]
    ticks = {row.shots or all_images: str(row.shots or "all") for rows in models.values() for row in rows}
    styles = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    for place, ((model, rows), (colour, marker)) in enumerate(zip(models.items(), styles, strict=False)):
        points = sorted(rows, key=lambda row: row.shots or all_images)
        shift = 1.03 ** (place - (len(models) - 1) / 2)
        values = [row.accuracy or 0.0 for row in points]
        axis.errorbar(
            [(row.shots or all_images) * shift for row in points],
            values,
            yerr=[
                [value - (row.low or 0.0) for value, row in zip(values, points, strict=True)],
                [(row.high or 0.0) - value for value, row in zip(values, points, strict=True)],
            ],
            label=model,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            capsize=2,
        )
    axis.set_xscale("log")
    axis.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)])
    axis.minorticks_off()
    axis.set_xlabel(f"{about['kind']} per class to learn from (all: {all_images:.3g})")
    axis.set_ylabel("accuracy, %, with 90 % interval")
    axis.legend(fontsize=8, frameon=False)


def _draw_dots(axis: Axes, models: Mapping[str, Sequence[ProbeRow]]) -> None:
    for place, (row, *_) in enumerate(models.values()):
        axis.plot([row.low or 0.0, row.high or 0.0], [place, place], color="0.6", linewidth=2, solid_capstyle="butt")
        axis.plot(row.accuracy or 0.0, place, "o", color="C0" if row.rank != 1 else "C3", markersize=5)
    axis.set_yticks(range(len(models)), list(models), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("cross-validated accuracy, %, with 90 % interval")
