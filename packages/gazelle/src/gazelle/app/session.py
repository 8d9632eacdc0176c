"""A photo that was opened on the page, and the answers to what the browser asks about it. Nothing here needs gradio."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gazelle.app.answers import person, report, shown_copy
from gazelle.boxes import Box, check_box
from gazelle.estimation import Encoded, Estimator
from plm_core import InputError
from plm_core.errors import PlmError
from plm_core.utils.images import Channels, open_image
from plm_core.utils.ranges import whole

Finder = Callable[[NDArray[np.uint8]], Sequence[Box]]
"""A function from pixels, uint8 [H, W, 3], to head boxes (x0, y0, x1, y1) in fractions."""
START = "Choose a photo, or drop one above."
MOST_PEOPLE = 100
"""The largest number of people that a photo is asked about."""
_KEYS = itertools.count(1)


@dataclass(frozen=True)
class Photo:
    """A photo that was opened. It is encoded once, and then asked about any boxes.

    Attributes:
        key: A number that no other photo of this process has.
        name: The name of its file.
        picture: The picture, upright and RGB.
        scene: What the model made of it.
    """

    key: int
    name: str
    picture: Image.Image
    scene: Encoded


class Desk:
    """What answers the page: a model and a detector of heads. It keeps nothing of a photo.

    Args:
        estimator: The model.
        find_heads: The detector.
    """

    def __init__(self, estimator: Estimator, find_heads: Finder) -> None:
        self.estimator = estimator
        self.find_heads = find_heads

    def open(self, path: str | Path) -> Photo:
        """Read a photo upright and encode it.

        Raises:
            InputError: The file cannot be read. The message names the file, without its folder.
        """
        file = Path(path)
        try:
            contents = file.read_bytes()
        except OSError as e:
            raise InputError(f"photo {file.name!r} cannot be read: {e.strerror}") from e
        picture = Channels(3)(open_image(file.name, contents))
        return Photo(next(_KEYS), file.name, picture, self.estimator.encode(picture))

    def heads(self, photo: Photo) -> tuple[list[Sequence[float]], str]:
        """Find the heads in a photo.

        Returns:
            Their boxes in fractions, and a sentence about it. A detector that fails has found none, and the sentence
            says why: one can still draw boxes.
        """
        try:
            found = [check_box(box, f"find_heads()[{i}]") for i, box in enumerate(self.find_heads(_pixels(photo)))]
        except PlmError as e:
            return [], f"No heads could be looked for: {e}. Draw a box around each head yourself."
        boxes = [list(box) for box in found if box is not None][:MOST_PEOPLE]
        if not boxes:
            return [], "No head was found. Draw a box around one, or press “Add a head”."
        heads = "One head was" if len(boxes) == 1 else f"{len(boxes)} heads were"
        return [*boxes], f"{heads} found. Move a box, and the answer follows."

    def first(self, path: str | Path | None) -> tuple[Photo | None, dict[str, Any]]:
        """Open a photo and look at the heads that are found in it.

        Args:
            path: The file, or None if it was taken away.

        Returns:
            The photo, and the answer that the page draws, with a copy of the picture. If the photo cannot be read, None
            and an answer with the error.
        """
        if path is None:
            return None, {"key": 0, "turn": 0, "message": START}
        try:
            photo = self.open(path)
        except PlmError as e:
            return None, {"key": 0, "turn": 0, "error": str(e)}
        boxes, message = self.heads(photo)
        people = [{"number": number, "box": box} for number, box in enumerate(boxes, 1)]
        width, height = photo.picture.size
        shown = {"name": photo.name, "width": width, "height": height, "picture": shown_copy(photo.picture)}
        return photo, {**self.answer(photo, people, 0), "message": message, "photo": shown}

    def answer(self, photo: Photo | None, people: Any, turn: int) -> dict[str, Any]:
        """Say where people look, for the page to draw. The photo is not encoded again.

        Args:
            photo: The photo; None is an error.
            people: For each person a mapping with its ``number`` and its ``box`` in fractions.
            turn: The number of the question, which the answer has, too. The page thereby knows the answer to its latest
                question.

        Returns:
            ``key`` of the photo, ``turn``, ``people`` (see `gazelle.app.answers.person`) and the ``report`` to
            download. Or ``error``, one line.
        """
        answer = {"key": photo.key if photo else 0, "turn": turn}
        try:
            if photo is None:
                raise InputError("there is no photo; choose one first")
            numbers, boxes = _checked(people)
            looks = self.estimator.look(photo.scene, boxes)
        except PlmError as e:
            return {**answer, "error": str(e)}
        return {
            **answer,
            "people": [person(number, look) for number, look in zip(numbers, looks, strict=True)],
            "report": report(photo.name, photo.picture.size, numbers, looks),
        }

    def report(self, path: str | Path | None, boxes: Sequence[Sequence[float]] | None = None) -> dict[str, Any]:
        """Return the JSON about one photo, as programs ask for it.

        Args:
            path: The file.
            boxes: Head boxes in fractions. None to find them.

        Raises:
            InputError: The file or a box is not allowed.
        """
        if path is None:
            raise InputError("there is no photo; choose one first")
        photo = self.open(path)
        found = self.heads(photo)[0] if boxes is None else boxes
        numbers, checked = _checked([{"number": number, "box": box} for number, box in enumerate(found, 1)])
        return report(photo.name, photo.picture.size, numbers, self.estimator.look(photo.scene, checked))


def _pixels(photo: Photo) -> NDArray[np.uint8]:
    return np.array(photo.picture, dtype=np.uint8)


def _checked(people: Any) -> tuple[list[int], list[Any]]:
    """Return the numbers and the boxes of people that a browser sent.

    Raises:
        InputError: They are none.
    """
    if not isinstance(people, list) or len(people) > MOST_PEOPLE:
        got = f"{len(people)} people" if isinstance(people, list) else f"people as a {type(people).__name__}"
        raise InputError(f"{got} were sent; a list of {MOST_PEOPLE} at most is expected")
    for item in people:
        if not isinstance(item, dict) or not whole(item.get("number")) or item.get("box") is None:
            raise InputError(f"a person is {item!r}; a number from 1 and a box (x0, y0, x1, y1) are expected")
    numbers = [int(item["number"]) for item in people]
    return numbers, [check_box(item["box"], f"the box of person {item['number']}") for item in people]
