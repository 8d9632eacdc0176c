"""The JSON files that the original's preparation writes for GazeFollow and VideoAttentionTarget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gazelle.data.annotations import Annotations, Person, Scene
from gazelle.data.rows import gaze_point, head_box, numbers
from plm_core import InputError
from plm_core.datasets.captions.broken import Broken
from plm_core.utils.text import first_line, shown

Entry = Mapping[str, Any]


def read_json(file: str | Path, images: str | Path | None = None, skip: bool = False) -> Annotations:
    """Read such a file: a list of images with their ``heads``, or a list of clips with their ``frames``.

    A head has ``bbox_norm``, ``gazex_norm`` and ``gazey_norm`` in fractions, or ``bbox``, ``gazex`` and ``gazey`` in
    pixels. Gaze is a number, or a list with one for each annotator. ``inout`` is 1 or 0, also in a list; without it, or
    with -1, nobody has said whether the target is inside.

    Args:
        file: The file.
        images: The folder that its paths begin at; None for the folder of the file.
        skip: Whether what is broken is left out with a warning, and is no error: images that are not there or have no
            size, and heads that lack a field or a number.

    Raises:
        InputError: The file cannot be read, is no list, or something is broken; the message counts it, and lists the
            first with its place in the file.
    """
    file = Path(file)
    root = file.parent if images is None else Path(images)
    broken = Broken(str(file), "entries")
    scenes: list[Scene] = []
    kept = 0
    for place, clip, entry, size in _images(_content(file), broken):
        people: list[Person] = []
        try:
            path = root / _path(entry)
            if not path.is_file():
                raise ValueError(f"no file '{shown(str(entry['path']))}'")
            heads = _list(entry, "heads")
        except (OSError, ValueError) as e:
            broken.add(place, first_line(e))
            continue
        for number, head in enumerate(heads):
            try:
                people.append(_person(head, number, *size))
            except (TypeError, ValueError) as e:
                broken.add(f"{place}, head {number}", e)
        kept += 1
        if people:
            scenes.append(Scene(path, *size, tuple(people), clip))
    return Annotations(str(file), tuple(scenes), broken.settle(kept, skip))


def _content(file: Path) -> list[Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        reason = "nested too deep" if isinstance(e, RecursionError) else first_line(e)
        raise InputError(f"annotations {str(file)!r} cannot be read as JSON: {reason}") from e
    if not isinstance(content, list):
        raise InputError(
            f"annotations {str(file)!r} hold a {type(content).__name__}; a list of images or of clips is expected"
        )
    return content


def _images(content: list[Any], broken: Broken) -> Iterator[tuple[str, str, Entry, tuple[int, int]]]:
    """Yield the images: the place in the file, the clip, the entry, and the size."""
    for number, entry in enumerate(content):
        place = f"entry {number}"
        try:
            if not isinstance(entry, dict):
                raise ValueError("no object")
            size = _size(entry)
            if "frames" not in entry:
                yield place, "", entry, size
                continue
            clip, frames = _path(entry), _list(entry, "frames")
        except ValueError as e:
            broken.add(place, e)
            continue
        for index, frame in enumerate(frames):
            if isinstance(frame, dict):
                yield f"{place}, frame {index}", clip, frame, size
            else:
                broken.add(f"{place}, frame {index}", "no object")


def _path(entry: Entry) -> str:
    path = entry.get("path")
    if not isinstance(path, str) or not path:
        raise ValueError("no path")
    return path


def _list(entry: Entry, name: str) -> list[Any]:
    values = entry.get(name)
    if not isinstance(values, list):
        raise ValueError(f"no list of {name}")
    return values


def _size(entry: Entry) -> tuple[int, int]:
    width, height = numbers([entry.get("width"), entry.get("height")], "size")
    if width < 1 or height < 1:
        raise ValueError(f"size {width:g} x {height:g} is not allowed")
    return int(width), int(height)


def _person(head: Any, number: int, width: int, height: int) -> Person:
    """Return a person.

    Raises:
        ValueError: A field is missing or broken. The message says which.
    """
    if not isinstance(head, dict):
        raise ValueError("no object")
    corners, unit = _field(head, "bbox", width, height)
    if len(corners) != 4:
        raise ValueError(f"bbox of {len(corners)} numbers")
    x, across = _field(head, "gazex", width, height)
    y, down = _field(head, "gazey", width, height)
    if len(x) != len(y) or not x:
        raise ValueError(f"{len(x)} gazex and {len(y)} gazey")
    gaze = tuple(gaze_point(*point, across[0], down[1]) for point in zip(x, y, strict=True))
    inout = head.get("inout")
    said = numbers(inout if isinstance(inout, list) else [-1 if inout is None else inout], "inout")
    if not said or said[0] not in (-1, 0, 1):
        raise ValueError(f"inout is {shown(repr(inout), 40)}; -1, 0 and 1 are allowed")
    return Person(
        head_box(corners, *unit), gaze, None if said[0] == -1 else int(said[0]), str(head.get("head_id", number))
    )


def _field(head: Entry, name: str, width: int, height: int) -> tuple[list[float], tuple[float, float]]:
    """Return the numbers of a field, and what divides horizontal and vertical ones to make fractions of them."""
    normalised = head.get(f"{name}_norm")
    value = head.get(name) if normalised is None else normalised
    if value is None:
        raise ValueError(f"no {name}")
    return numbers(value if isinstance(value, list) else [value], name), (width, height) if normalised is None else (
        1,
        1,
    )
