"""The same number for the same person in every frame of a video, by the overlap of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from gazelle.people.boxes import overlaps
from plm_core.errors import InputError
from plm_core.utils.ranges import rate, real, whole

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass
class Track:
    """A person who was found in some frames."""

    id: int
    box: Floats
    """The box in the last frame in which there was one, [4]."""
    smooth: Floats
    """The mean over frames, of which newer ones count more, [4]."""
    missed: int = 0
    """The number of frames since then."""


class Tracker:
    """Numbers for the people in a video, one frame after the other.

    The boxes of a frame are assigned to the known people such that the sum of overlaps is as large as possible. It
    foresees no motion: someone who moves by more than about half a head between two frames becomes someone else, and
    two people who pass may change numbers. The same frames give the same numbers.

    Args:
        max_missed: Number of frames in a row in which somebody may not be found and still keeps the number.
        min_overlap: Least intersection over union of two boxes of a person, above 0 and up to 1.
        smoothing: Share of the past in `boxes`, from 0 (none) to below 1.

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(self, max_missed: int = 10, min_overlap: float = 0.3, smoothing: float = 0.0) -> None:
        if not whole(max_missed, 0):
            raise InputError(f"max_missed {max_missed!r} is not allowed: a whole number from 0 is")
        if not (real(min_overlap) and 0 < min_overlap <= 1):
            raise InputError(f"min_overlap {min_overlap!r} is not allowed: a number above 0 and up to 1 is")
        if not rate(smoothing):
            raise InputError(f"smoothing {smoothing!r} is not allowed: a number from 0 to less than 1 is")
        self.max_missed = max_missed
        self.min_overlap = min_overlap
        self.smoothing = smoothing
        self.boxes: Floats = np.zeros((0, 4))
        """The smoothed boxes of the last frame, float64 [P, 4], in the order of its boxes."""
        self._tracks: list[Track] = []
        self._next = 0

    def update(self, boxes: ArrayLike, scores: ArrayLike | None = None) -> Ids:
        """Take the boxes of the next frame.

        Args:
            boxes: Boxes, [P, 4], always in pixels or always in fractions.
            scores: The detector's scores, [P]. New people are numbered from the best score down.

        Returns:
            The number of each box, int64 [P]. Numbers begin with 0 and are never used for another person.

        Raises:
            InputError: The boxes or the scores have another shape, or are not finite.
        """
        found, certain = _frame(boxes, scores)
        known = self._assigned(found)
        for track in self._tracks:
            track.missed += 1
        for row, track in known.items():
            track.box, track.missed = found[row], 0
            track.smooth = self.smoothing * track.smooth + (1 - self.smoothing) * found[row]
        for row in np.argsort(-certain, kind="stable").tolist():
            if row not in known:
                known[row] = Track(self._next, found[row], found[row])
                self._tracks.append(known[row])
                self._next += 1
        self._tracks = [track for track in self._tracks if track.missed <= self.max_missed]
        order = [known[row] for row in range(len(found))]
        self.boxes = _stack([track.smooth for track in order])
        return np.array([track.id for track in order], np.int64)

    def _assigned(self, found: Floats) -> dict[int, Track]:
        """Return the known person of each box that has one, by the number of the box."""
        shared = overlaps(found, _stack([track.box for track in self._tracks]))
        shared[shared < self.min_overlap] = 0
        rows, columns = linear_sum_assignment(shared, maximize=True)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {row: self._tracks[column] for row, column in pairs if shared[row, column] > 0}


def _stack(boxes: Sequence[Floats]) -> Floats:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _frame(boxes: Any, scores: Any) -> tuple[Floats, Floats]:
    """Return the boxes [P, 4] and the scores [P] of a frame."""
    found = np.array(boxes, np.float64)
    found = found.reshape(0, 4) if not found.size else found
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        raise InputError(f"boxes of shape {list(found.shape)}: finite numbers of shape [P, 4] are allowed")
    certain = np.ones(len(found)) if scores is None else np.array(scores, np.float64)
    if certain.shape != found.shape[:1] or not np.isfinite(certain).all():
        raise InputError(f"scores of shape {list(certain.shape)}: finite numbers of shape [{len(found)}] are allowed")
    return found, certain
