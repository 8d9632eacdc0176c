"""VideoAttentionTarget (VAT): clips of shows, with a file of head boxes and gaze points for each person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gazelle.data.annotations import OUTSIDE, Annotations, Person, Scene
from gazelle.data.frames import Frames
from gazelle.data.rows import fields, gaze_point, head_box, lines, numbers
from plm_core import InputError
from plm_core.datasets.captions.broken import Broken
from plm_core.utils.progress import track
from plm_core.utils.ranges import check_choice

WINDOW = 11
"""The number of rows over which boxes are averaged."""
COLUMNS = 7
"""The columns: frame file, xmin, ymin, xmax, ymax, gaze x, gaze y, in pixels."""


def read_vat(folder: str | Path, split: str = "train", skip: bool = False) -> Annotations:
    """Read a split of VideoAttentionTarget.

    The boxes of a person are smoothed over the rows of the file, by a moving average of 11 rows whose ends repeat the
    first and the last row, and then clipped to the size of one frame of the clip. A target is outside if both of its
    coordinates are negative; a single negative one becomes 0. Frames are in the order of their names, each with the
    people of all files that have it.

    Args:
        folder: The folder of ``annotations/SPLIT/SHOW/CLIP/PERSON.txt`` and ``images/SHOW/CLIP``.
        split: ``train`` or ``test``.
        skip: Whether broken rows are left out with a warning, and are no error; the average is then over the others. A
            row is broken if it lacks columns or numbers, has the frame of an earlier row, or names an image that is not
            there.

    Raises:
        InputError: There are no files, or rows are broken; the message counts them, and lists the first ones.
    """
    check_choice("split", split, ("train", "test"))
    root = Path(folder) / "annotations" / split
    clips: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(root.glob("*/*/*.txt")):
        clips[file.parent.relative_to(root).as_posix()].append(file)
    if not clips:
        raise InputError(f"data {str(folder)!r} has no files annotations/{split}/SHOW/CLIP/PERSON.txt, as VAT has them")
    frames, broken = Frames(Path(folder) / "images"), Broken(str(root), "rows")
    scenes: list[Scene] = []
    kept = 0
    for clip, files in track(clips.items(), "reading clips", len(clips)):
        people: dict[str, list[Person]] = defaultdict(list)
        for file in files:
            for name, person in _track(file, clip, frames, broken):
                people[name].append(person)
                kept += 1
        scenes += [
            Scene(frames.root / clip / name, *frames.size(clip, name), tuple(people[name]), clip)
            for name in sorted(people)
        ]
    return Annotations(str(root), tuple(scenes), broken.settle(kept, skip))


def smoothed(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the moving average of boxes [N, 4] over `WINDOW` rows; the first and the last go on beyond the ends."""
    reach = WINDOW // 2
    padded = np.pad(boxes, ((reach, reach), (0, 0)), mode="edge")
    averages: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0).mean(-1)
    return averages


def _track(file: Path, clip: str, frames: Frames, broken: Broken) -> Iterator[tuple[str, Person]]:
    """Yield the frames of one person's file, and what the person does there."""
    rows: dict[str, Sequence[float]] = {}
    for number, line in lines(file):
        try:
            name, *values = fields(line, COLUMNS)[:COLUMNS]
            if name in rows:
                raise ValueError("the frame of an earlier line")
            frames.size(clip, name)
            rows[name] = numbers(values, "coordinate")
        except ValueError as e:
            broken.add(f"{clip}/{file.name} line {number}", e)
    if not rows:
        return
    boxes = smoothed(np.array([values[:4] for values in rows.values()])).tolist()
    for (name, (*_, x, y)), box in zip(rows.items(), boxes, strict=True):
        size = frames.size(clip, name)
        gaze = gaze_point(x, y, *size)
        yield name, Person(head_box(box, *size), (gaze,), int(gaze != OUTSIDE), file.stem)
