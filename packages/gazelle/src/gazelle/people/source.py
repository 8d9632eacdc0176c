"""Where the head boxes of a picture are from: from a person, from a file, from a detector, or from nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazelle.people.boxes import Pixels
from gazelle.people.detectors import Detector, detector, find_heads
from gazelle.people.reading import Box, boxes_of, fractions
from plm_core.errors import InputError


@dataclass(frozen=True)
class Found:
    """The people in a picture.

    Attributes:
        boxes: The head box of each person in fractions of the picture, or None for a person without one.
        scores: How sure the detector is of each person. None for boxes from elsewhere.
    """

    boxes: list[Box | None]
    scores: list[float | None]


@dataclass(frozen=True)
class HeadSource:
    """Where head boxes are from.

    Attributes:
        detector: What finds people if there are no boxes, see `gazelle.people.detector`. None asks about one person
            without a box in each picture, which is where anybody would look.
        boxes: Boxes of pictures by their names, as `gazelle.people.read_boxes` returns them. Nobody is searched then.

    Raises:
        InputError: There is no such detector.
        MissingDependency: What the detector needs is not installed.
    """

    detector: str | Detector | None = "mtcnn"
    boxes: Mapping[str, Sequence[Box]] | None = None

    def __post_init__(self) -> None:
        if self.boxes is None and self.detector is not None:
            detector(self.detector)

    @property
    def name(self) -> str:
        """``given`` for boxes, ``none`` without any, or the name of the detector."""
        if self.boxes is not None:
            return "given"
        if self.detector is None:
            return "none"
        return self.detector if isinstance(self.detector, str) else getattr(self.detector, "__name__", "detector")

    def known(self, path: str | Path, width: int, height: int) -> Found | None:
        """Return the people of a picture or a video that are known without looking at it, or None.

        Raises:
            InputError: A box is none, or is not within the picture, or the file of boxes says nothing about it. The
                message names the file.
        """
        if self.boxes is None:
            return None if self.detector is not None else Found([None], [None])
        boxes = boxes_of(self.boxes, path)
        if boxes is None:
            raise InputError(f"{str(path)!r} is not in the file of boxes; give it boxes, or an empty list for nobody")
        rows = fractions(boxes, width, height, repr(str(path))).tolist()
        return Found([tuple(row) for row in rows], [None] * len(rows))

    def find(self, pixels: Pixels, path: str | Path) -> Found:
        """Return the people of a picture, uint8 RGB [H, W, 3]: those that are known, or found ones from left to right.

        Raises:
            InputError: See `known` and `gazelle.people.find_heads`.
        """
        height, width = pixels.shape[:2]
        known = self.known(path, width, height)
        if known is not None:
            return known
        assert self.detector is not None
        heads = find_heads(pixels, self.detector)
        order = np.argsort(heads.boxes[:, 0] + heads.boxes[:, 2], kind="stable")
        shares = (heads.boxes[order].astype(np.float64) / [width, height, width, height]).clip(0, 1)
        return Found([tuple(row) for row in shares.tolist()], [float(score) for score in heads.scores[order]])
