"""Gaze in photos: who looks where, as data and as a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gazelle.estimation import Estimator
from gazelle.people.source import HeadSource
from gazelle.pictures import NOBODY, paint
from gazelle.relations import THRESHOLD, Person, relate
from plm_core.utils.files import atomic_paths
from plm_core.utils.images import Channels, open_image

QUALITY = 92
"""The quality of the JPEG files."""


@dataclass(frozen=True)
class PhotoGaze:
    """A photo and the people in it.

    Attributes:
        path: The file.
        image: The photo upright, RGB.
        people: The people, from left to right if they were found, or in the order of their boxes.
    """

    path: Path
    image: Image.Image
    people: list[Person]


def gaze_photo(
    estimator: Estimator, path: str | Path, source: HeadSource | None = None, threshold: float = THRESHOLD
) -> PhotoGaze:
    """Return who looks where in a photo.

    Args:
        estimator: The model.
        path: The file. It is turned as its EXIF data say, and boxes refer to that.
        source: Where head boxes are from. None finds people with the default detector.
        threshold: The probability from which a target is taken to be inside the picture.

    Raises:
        InputError: The file cannot be read, or see `gazelle.people.source.HeadSource`. The message names the file.
    """
    original = open_image(path)
    image: Image.Image = Channels(3)(original)
    found = (source or HeadSource()).find(np.asarray(image), path)
    looks = estimator(original, found.boxes) if found.boxes else []
    return PhotoGaze(Path(path), image, relate(looks, scores=found.scores, threshold=threshold))


def data_of(photo: PhotoGaze) -> dict[str, Any]:
    """Return what is known of a photo as plain data: its size, and a list of people.

    Boxes are x0, y0, x1, y1 and points x, y, once in pixels of the upright photo and once in fractions of it.
    """
    width, height = photo.image.size
    return {
        "file": str(photo.path),
        "width": width,
        "height": height,
        "people": [_person(person, width, height) for person in photo.people],
    }


def write_photo(
    photo: PhotoGaze,
    picture: str | Path,
    data: str | Path,
    *,
    about: dict[str, Any] | None = None,
    threshold: float = THRESHOLD,
    heat: str = "own",
    note: str = "",
) -> None:
    """Write a picture of a photo and its data, both completely or not at all.

    Args:
        photo: The photo.
        picture: The JPEG file to write, such as photo.gaze.jpg.
        data: The JSON file to write, such as photo.gaze.json.
        about: Further facts for the data, such as the name of the model.
        threshold: The probability from which a target is taken to be inside the picture.
        heat: The heatmaps, see `gazelle.pictures.paint`.
        note: A text for the lower edge of the picture. If nobody was found, that is said there too.

    Raises:
        FileError: A file cannot be written.
    """
    looks = [person.look for person in photo.people]
    words = note if looks else f"{NOBODY} {note}".strip()
    painted = paint(photo.image, looks, threshold=threshold, heat=heat, note=words)
    content = json.dumps({**data_of(photo), **(about or {})}, indent=2) + "\n"
    with atomic_paths(picture, data) as (image, text):
        painted.save(image, format="JPEG", quality=QUALITY)
        text.write_text(content, encoding="utf-8")


def _person(person: Person, width: int, height: int) -> dict[str, Any]:
    look = person.look
    return {
        "id": person.id,
        "box": None if look.box is None else _pixels(look.box, width, height),
        "box_fractions": None if look.box is None else [round(float(side), 6) for side in look.box],
        "detector_score": _short(person.detector_score),
        "point": _pixels(look.point, width, height),
        "point_fractions": [round(side, 6) for side in look.point],
        "score": _short(look.score),
        "inside": _short(look.inside),
        "looks_inside": person.looks_inside,
        "looks_at": person.looks_at,
        "looks_at_camera": person.looks_at_camera,
        "mutual": person.mutual,
    }


def _pixels(sides: Any, width: int, height: int) -> list[float]:
    return [round(float(side) * (width, height)[i % 2], 2) for i, side in enumerate(sides)]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
