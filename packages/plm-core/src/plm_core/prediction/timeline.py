"""The classes of a video over time, as a picture: a strip of its frames, and the probabilities below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plm_core.prediction.results import VideoClasses
from plm_core.utils import plots
from plm_core.video import Video
from plm_core.video.pixels import cover, crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXTRA = "plm-core[tour]"  # installs matplotlib
NEEDED_BY = "the picture of a video"
MOST = 8  # classes in one picture
FRAMES = 12  # frames in the strip
SIDE = 160  # pixels of each
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#777777")
# Paul Tol's "bright" scheme, with an orange of his "vibrant" one; colour-blind people can tell them apart.


def timeline(result: VideoClasses) -> Figure:
    """Return a picture of the classes of a video over time.

    It shows up to eight classes: those that are the most probable of a window, and then those of the whole video.

    Raises:
        MissingDependency: matplotlib is not installed.
        InputError: The file cannot be read.
    """
    picture = plots.figure(NEEDED_BY, EXTRA, figsize=(9.6, 4.6), layout="constrained")
    strip, axis = picture.subplots(2, 1, height_ratios=[1, 4])
    _draw_strip(strip, Video(result.path))
    _draw_classes(axis, result)
    picture.suptitle(result.path.name, x=0.02, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    return picture


def shown_classes(result: VideoClasses) -> list[int]:
    """Return the numbers of the classes in the picture, the most probable of the whole video first."""
    order = np.argsort(-result.probabilities.mean(0), kind="stable").tolist()
    best = set(result.probabilities.argmax(1).tolist())
    chosen = sorted(order, key=lambda number: number not in best)[:MOST]
    # without a window of its own, only the classes that a table would show as well
    named = best | {c.number for c in result.classes}
    return [number for number in order if number in chosen and number in named]


def _draw_strip(axis: Axes, video: Video) -> None:
    """Draw the middle frames of equal parts of a video side by side, each cropped to a square."""
    numbers = sorted({int((i + 0.5) * len(video) / FRAMES) for i in range(FRAMES)})
    squares = video.read(numbers, lambda picture: crop(cover(picture, (SIDE, SIDE), 1), (SIDE, SIDE), 0.5))
    axis.imshow(np.concatenate(list(squares.movedim(1, -1).numpy()), 1), aspect="auto")
    for i in range(1, len(squares)):
        axis.axvline(i * SIDE - 0.5, color="white", linewidth=2)
    axis.set_axis_off()


def _draw_classes(axis: Axes, result: VideoClasses) -> None:
    edges = [*(window.start for window in result.windows), result.windows[-1].end]
    for i, number in enumerate(shown_classes(result)):
        values = result.probabilities[:, number]
        label = f"{values.mean():.2f}  {result.labels[number]}"  # a label that begins with "_" would be left out
        axis.stairs(values, edges, color=COLOURS[i], linewidth=2, baseline=None, label=label)
        axis.stairs(values, edges, color=COLOURS[i], alpha=0.12, fill=True)
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(0, 1)
    axis.set_xlabel("seconds")
    axis.set_ylabel("probability")
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    legend = axis.legend(
        title="mean",
        alignment="left",
        frameon=False,
        fontsize="small",
        handlelength=1.2,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a label may have a "$"
