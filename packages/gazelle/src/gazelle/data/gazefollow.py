"""GazeFollow (extended): photos of people, each with one gaze point, or with those of ten annotators for the test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gazelle.data.annotations import Annotations, Person, Point, Scene
from gazelle.data.frames import Photos
from gazelle.data.rows import fields, head_box, lines, numbers
from plm_core.datasets.captions.broken import Broken
from plm_core.utils.progress import track
from plm_core.utils.ranges import check_choice

PATH, EYE_X, GAZE, HEAD, INOUT = 0, 6, slice(8, 10), slice(10, 14), 14
"""The columns: path, idx, body x y w h, eye x y, gaze x y, head x_min y_min x_max y_max, inout, source, meta. The test
file has no inout."""


@dataclass(frozen=True)
class _Row:
    path: str
    key: float | int
    """What the rows of one person have in common."""
    person: Person


def read_gazefollow(folder: str | Path, split: str = "train", skip: bool = False) -> Annotations:
    """Read a split of GazeFollow.

    Eye and gaze are fractions, head boxes are pixels; reversed ends of a box are swapped, and boxes are clipped. In the
    training split each row is a person, and rows with inout -1 are dropped. In the test split the rows of one path and
    one horizontal eye position are a person, with the gaze points of all of them and the box of the first.

    Args:
        folder: The folder of ``train_annotations_release.txt``, ``test_annotations_release.txt`` and the images.
        split: ``train`` or ``test``.
        skip: Whether broken rows are left out with a warning, and are no error. A row is broken if it lacks columns or
            numbers, has another inout than -1, 0 and 1, or names an image that is not there.

    Raises:
        InputError: The file cannot be read, or rows are broken; the message counts them, and lists the first ones.
    """
    check_choice("split", split, ("train", "test"))
    file = Path(folder) / f"{split}_annotations_release.txt"
    photos, broken = Photos(Path(folder)), Broken(str(file), "rows")
    people: dict[str, dict[float | int, Person]] = {}
    dropped: Counter[str] = Counter()
    kept = 0
    for number, line in track(lines(file), f"reading {file.name}"):
        try:
            row = _parse(line, number, photos, split == "test")
        except ValueError as e:
            broken.add(f"line {number}", e)
            continue
        kept += 1
        if row is None:
            dropped["inout -1"] += 1
            continue
        heads = people.setdefault(row.path, {})
        first = heads.get(row.key)
        heads[row.key] = row.person if first is None else _joined(first, row.person.gaze)
    left_out = broken.settle(kept, skip)
    scenes = [_scene(photos, path, heads) for path, heads in people.items()]
    return Annotations(str(file), tuple(scenes), left_out, dropped)


def _parse(line: bytes, number: int, photos: Photos, test: bool) -> _Row | None:
    """Return a row, or None if it is to be dropped.

    Raises:
        ValueError: It is broken. The message says why.
    """
    row = fields(line, INOUT if test else INOUT + 1)
    inout = 1.0 if test else numbers([row[INOUT]], "inout")[0]
    if inout not in (-1, 0, 1):
        raise ValueError(f"inout is {inout:g}; -1, 0 and 1 are allowed")
    if inout == -1:
        return None
    key = numbers([row[EYE_X]], "eye")[0] if test else number
    x, y = numbers(row[GAZE], "gaze")
    corners = numbers(row[HEAD], "head box")
    size = photos.size(row[PATH])
    return _Row(row[PATH], key, Person(head_box(corners, *size), ((x, y),), int(inout), ""))


def _joined(person: Person, gaze: tuple[Point, ...]) -> Person:
    return Person(person.box, person.gaze + gaze, person.inout, person.head_id)


def _scene(photos: Photos, path: str, heads: dict[float | int, Person]) -> Scene:
    people = [Person(p.box, p.gaze, p.inout, str(number)) for number, p in enumerate(heads.values())]
    return Scene(photos.root / path, *photos.size(path), tuple(people))
