"""GOO-Real: photos of shoppers who look at a product on a shelf. The format of its pickles is unverified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gazelle.data.annotations import Annotations, Person, Scene
from gazelle.data.frames import Photos
from gazelle.data.pickles import read_plain_pickle
from gazelle.data.rows import gaze_point, head_box, numbers
from plm_core import InputError
from plm_core.datasets.captions.broken import Broken
from plm_core.utils.text import first_line

Row = Mapping[str, Any]


def last_box(row: Row) -> Sequence[float]:
    """Return the last box of a row, ``row["ann"]["bboxes"][-1]``. The others are taken to be those of the products."""
    boxes: Sequence[Sequence[float]] = row["ann"]["bboxes"]
    return boxes[-1]


def read_goo(
    file: str | Path,
    images: str | Path | None = None,
    head: Callable[[Row], Sequence[float]] = last_box,
    skip: bool = False,
) -> Annotations:
    """Read a pickle of GOO-Real.

    It is taken to be a list of dicts, or a dict of them, each with ``filename``, the gaze point ``gaze_cx`` and
    ``gaze_cy`` in pixels, and boxes. Nobody has verified that: if the head is elsewhere, pass ``head``. All targets are
    inside. A pickle can run code when it is read. This one is read in a way that allows plain values and NumPy arrays
    only, and anything else is refused, see `gazelle.data.pickles.read_plain_pickle`.

    Args:
        file: The pickle.
        images: The folder of the images; None for the folder of the file.
        head: Function from a row to the person's head box, (x0, y0, x1, y1) in pixels.
        skip: Whether broken rows are left out with a warning, and are no error.

    Raises:
        InputError: The file is refused or holds no rows, or rows are broken; the message counts them, and lists the
            first ones with their numbers from 0.
    """
    file = Path(file)
    content = read_plain_pickle(file)
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise InputError(f"pickle {str(file)!r} holds a {type(rows).__name__}; a list of rows is expected")
    photos, broken = Photos(file.parent if images is None else Path(images)), Broken(str(file), "rows")
    people: dict[str, list[Person]] = {}
    for number, row in enumerate(rows):
        try:
            name, person = _parse(row, head, photos)
        except Exception as e:  # a row may be anything, and so may be the function
            broken.add(f"row {number}", f"no {e}" if isinstance(e, KeyError) else first_line(e))
            continue
        heads = people.setdefault(name, [])
        heads.append(Person(person.box, person.gaze, person.inout, str(len(heads))))
    left_out = broken.settle(len(rows) - len(broken.places), skip)
    scenes = [Scene(photos.root / name, *photos.size(name), tuple(heads)) for name, heads in people.items()]
    return Annotations(str(file), tuple(scenes), left_out)


def _parse(row: Any, head: Callable[[Row], Sequence[float]], photos: Photos) -> tuple[str, Person]:
    if not isinstance(row, dict):
        raise ValueError("no dict")
    name = str(row["filename"])
    size = photos.size(name)
    x, y = numbers([row["gaze_cx"], row["gaze_cy"]], "gaze")
    corners = numbers(np.ravel(np.asarray(head(row))).tolist(), "head box")
    if len(corners) != 4:
        raise ValueError(f"head box of {len(corners)} numbers")
    return name, Person(head_box(corners, *size), (gaze_point(x, y, *size),), 1, "")
