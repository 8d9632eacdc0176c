"""ChildPlay: clips of playing children and adults, with a file of all people for each clip."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from gazelle.data.annotations import OUTSIDE, Annotations, Person, Scene
from gazelle.data.frames import Frames
from gazelle.data.rows import fields, gaze_point, head_box, lines, numbers
from plm_core import InputError
from plm_core.datasets.captions.broken import Broken
from plm_core.utils.progress import track
from plm_core.utils.ranges import check_choice
from plm_core.utils.text import shown

COLUMNS = (
    "clip", "frame", "person_id", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "gaze_class", "gaze_x", "gaze_y"
)  # fmt: skip
"""The columns that are read, in any order; others are not looked at."""
DROPPED = ("gaze_shift", "inside_occluded", "inside_uncertain", "eyes_closed")
"""The classes of gaze that are dropped."""
INSIDE = "inside_visible"
CLIP = re.compile(r"(?P<video>.+)_(?P<start>\d+)-\d+(-downsample)?")

Place = tuple[str, int, str]
"""The clip, the number of the frame, and the name of its file."""


def read_childplay(folder: str | Path, split: str = "train", skip: bool = False) -> Annotations:
    """Read a split of ChildPlay.

    Rows of the classes gaze_shift, inside_occluded, inside_uncertain and eyes_closed are dropped, and so are those of
    inside_visible without a point. The target of any other class is outside. Frame N of the clip ``VIDEO_START-END`` or
    ``VIDEO_START-END-downsample`` is the image ``VIDEO_M.jpg`` with M = START + N - 1.

    Args:
        folder: The folder of ``annotations/SPLIT/*.csv`` and ``images/CLIP``.
        split: ``train``, ``val`` or ``test``.
        skip: Whether broken rows are left out with a warning, and are no error. A row is broken if it lacks columns or
            numbers, has a clip of another form, or an image that is not there.

    Raises:
        InputError: There are no files, one lacks a column, or rows are broken; the message counts them, and lists the
            first ones.
    """
    check_choice("split", split, ("train", "val", "test"))
    root = Path(folder) / "annotations" / split
    files = sorted(root.glob("*.csv"))
    if not files:
        raise InputError(f"data {str(folder)!r} has no files annotations/{split}/*.csv, as ChildPlay has them")
    frames, broken = Frames(Path(folder) / "images"), Broken(str(root), "rows")
    people: dict[Place, list[Person]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    kept = 0
    for file in track(files, "reading clips", len(files)):
        rows = lines(file)
        columns = _columns(file, next(rows, (1, b""))[1])
        for number, line in rows:
            try:
                row = fields(line, max(columns.values()) + 1)
                found = _parse({name: row[place] for name, place in columns.items()}, frames)
            except ValueError as e:
                broken.add(f"{file.name} line {number}", e)
                continue
            kept += 1
            if isinstance(found, str):
                dropped[found] += 1
            else:
                people[found[0]].append(found[1])
    left_out = broken.settle(kept, skip)
    scenes = [
        Scene(frames.root / clip / name, *frames.size(clip, name), tuple(people[clip, frame, name]), clip)
        for clip, frame, name in sorted(people)
    ]
    return Annotations(str(root), tuple(scenes), left_out, dropped)


def _columns(file: Path, header: bytes) -> dict[str, int]:
    """Return the place of each column of `COLUMNS`.

    Raises:
        InputError: One is missing.
    """
    try:
        names = fields(header, 1)
    except ValueError as e:
        raise InputError(f"annotations {str(file)!r}: line 1 ({e}) does not name the columns") from e
    if missing := [name for name in COLUMNS if name not in names]:
        raise InputError(f"annotations {str(file)!r} lack the columns {', '.join(missing)}")
    return {name: names.index(name) for name in COLUMNS}


def _parse(row: Mapping[str, str], frames: Frames) -> tuple[Place, Person] | str:
    """Return the frame of a row and what the person does there, or the reason why the row is dropped.

    Raises:
        ValueError: It is broken. The message says why.
    """
    kind = row["gaze_class"]
    if not kind:
        raise ValueError("no gaze_class")
    if kind in DROPPED:
        return kind
    x, y = numbers([row["gaze_x"], row["gaze_y"]], "gaze")
    if kind == INSIDE and x == -1:
        return f"{INSIDE} without a point"
    left, top, width, height = numbers([row[name] for name in COLUMNS[3:7]], "head box")
    place = _place(row["clip"], row["frame"])
    size = frames.size(place[0], place[2])
    box = head_box((left, top, left + width, top + height), *size)
    inside = kind == INSIDE
    gaze = gaze_point(x, y, *size) if inside else OUTSIDE
    return place, Person(box, (gaze,), int(inside), row["person_id"])


def _place(clip: str, frame: str) -> Place:
    found = CLIP.fullmatch(clip)
    if found is None:
        raise ValueError(f"clip '{shown(clip)}' is not VIDEO_START-END")
    number = numbers([frame], "frame")[0]
    if number % 1:
        raise ValueError(f"frame {number:g} is no whole number")
    return clip, int(number), f"{found['video']}_{int(found['start']) + int(number) - 1}.jpg"
