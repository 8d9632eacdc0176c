"""The history of a training as a table and as a picture: curve.csv and curve.png."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plm_core.errors import InputError, MissingDependency
from plm_core.training.history import COLUMNS
from plm_core.utils import plots
from plm_core.utils.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]

EXTRA = "plm-core[train]"  # installs matplotlib
GREY = "0.45"
CROWDED = 4  # values in one panel, above which their legend would hide them
SMOOTHED = 60  # from this number of points on, the loss is drawn as a running mean over its points

_log = logging.getLogger(__name__)


def write_curve(history: History, folder: str | Path, title: str = "") -> list[Path]:
    """Write the history of a training into a folder: ``curve.csv`` and, if matplotlib is installed, ``curve.png``.

    Args:
        history: The entries of `plm_core.training.TrainResult`.
        folder: The folder. It is created if it is absent.
        title: Title of the picture.

    Returns:
        The files that were written.

    Raises:
        InputError: The history has no entries.
        FileError: A file cannot be written.
    """
    if not history:
        raise InputError("history is empty: nothing was logged")
    table, picture = Path(folder) / "curve.csv", Path(folder) / "curve.png"
    write_text(table, csv_text(history))
    try:
        drawn = figure(history, title)
    except MissingDependency as e:
        _log.warning("%s is not drawn: %s", picture, e)
        return [table]
    with atomic_path(picture) as part:
        drawn.savefig(part, format="png", dpi=150)
    return [table, picture]


def csv_text(history: History) -> str:
    """Return the history as the text of a csv file: one row per entry, and empty cells for values that it lacks."""
    names = dict.fromkeys(name for entry in history for name in entry)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def figure(history: History, title: str = "") -> Figure:
    """Return the picture of a history: the loss and the learning rate over the steps, and below them other values.

    Values in percent have a panel of their own. So have values that only some entries have, such as the scores of an
    evaluation each epoch.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    groups = _groups(history)
    beside = any(len(names) > CROWDED for names in groups)  # such a legend stands beside its panel
    size = (9.6 if beside else 7.2, 3.4 + 2.0 * len(groups))
    picture = plots.figure("the picture of a training", EXTRA, figsize=size, layout="constrained")
    ratios = [1.6, *[1.0] * len(groups)]
    axes = picture.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    _draw_loss(axes[0], history)
    for axis, names in zip(axes[1:], groups, strict=True):
        _draw_values(axis, history, names)
    for axis in axes:
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlim(0, history[-1]["step"] * 1.02)
    axes[-1].locator_params(axis="x", integer=True)
    axes[-1].set_xlabel("step")
    _add_epochs(axes[0], history[-1])
    if title:
        picture.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    return picture


def _groups(history: History) -> list[list[str]]:
    """Return the names of the values below the loss, by panel."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name in dict.fromkeys(name for entry in history for name in entry if name not in COLUMNS):
        everywhere = all(name in entry for entry in history)
        groups.setdefault((everywhere, name.endswith("%")), []).append(name)
    return list(groups.values())


def _points(history: History, name: str) -> tuple[Any, Any]:
    """Return the steps at which a value was logged, and the values."""
    entries = [entry for entry in history if name in entry]
    return np.array([entry["step"] for entry in entries]), np.array([float(entry[name]) for entry in entries])


def _draw_loss(axis: Axes, history: History) -> None:
    """Draw the loss and, faintly on an axis to the right, the learning rate."""
    steps, values = _points(history, "learning_rate")
    rates = axis.twinx()
    rates.fill_between(steps, values, color="0.5", alpha=0.10, linewidth=0)
    rates.plot(steps, values, color="0.5", alpha=0.5, linewidth=1)
    rates.set_ylim(0, values.max(initial=0) * 1.15 or 1)
    rates.locator_params(axis="y", nbins=4)
    rates.yaxis.set_major_formatter("{x:g}")
    rates.set_ylabel("learning rate", color=GREY, fontsize="small")
    rates.tick_params(axis="y", colors=GREY, length=0, labelsize="small")
    rates.spines[:].set_visible(False)
    axis.set_zorder(rates.get_zorder() + 1)  # the loss is in front
    axis.patch.set_visible(False)
    steps, values = _points(history, "loss")
    if len(values) < SMOOTHED:
        axis.plot(steps, values, color="C0", linewidth=1.8, marker="o" if len(values) < 30 else "", markersize=3.5)
    else:
        axis.plot(steps, values, color="C0", linewidth=0.8, alpha=0.3)
        axis.plot(steps, _running_mean(values, max(len(values) // 30, 3)), color="C0", linewidth=1.8)
    axis.set_ylabel("loss")


def _draw_values(axis: Axes, history: History, names: Sequence[str]) -> None:
    """Draw values of one panel, each with its last one in the legend."""
    for number, name in enumerate(names, 1):
        steps, values = _points(history, name)
        marker = "o" if len(values) < 30 else ""
        label = f"{name}  {values[-1]:.4g}"
        axis.plot(steps, values, color=f"C{number % 10}", linewidth=1.5, marker=marker, markersize=3.5, label=label)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    place = beside if len(names) > CROWDED else {"loc": "best"}
    axis.legend(frameon=False, fontsize="small", handlelength=1.2, **place)
    if all(name.endswith("%") for name in names):
        axis.set_ylabel("%")


def _add_epochs(axis: Axes, last: Mapping[str, float]) -> None:
    """Add an axis with epochs to the top of a panel over steps."""
    from matplotlib.ticker import MaxNLocator

    epochs = last["epoch"] / last["step"]

    def to_epochs(step: Any) -> Any:
        return step * epochs

    def to_steps(epoch: Any) -> Any:
        return epoch / epochs

    above = axis.secondary_xaxis("top", functions=(to_epochs, to_steps))
    above.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10), integer=last["epoch"] >= 2))
    above.set_xlabel("epoch", color=GREY, fontsize="small")
    above.tick_params(colors=GREY, length=0, labelsize="small", pad=1)
    above.spines[:].set_visible(False)


def _running_mean(values: Any, width: int) -> Any:
    """Return the mean over a window around each point, which is cut off at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
