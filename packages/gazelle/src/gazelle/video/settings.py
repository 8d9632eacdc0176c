"""How a video is gone through."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gazelle.relations import THRESHOLD
from plm_core.utils.ranges import Ranges, rate, real, whole

EXTRA = "gazelle[video]"
"""What to install for videos."""


@dataclass(frozen=True)
class VideoSettings:
    """How a video is gone through.

    Attributes:
        every: People are looked for in the first frame and then in every ``every``-th one. In between, a box
            moves evenly from one such frame to the next.
        smooth: Share of the past in the point that a person looks at, from 0 (none) to less than 1, in every frame.
            Heatmaps are not smoothed.
        batch_size: Number of frames that the backbone takes at once.
        threshold: The probability from which a target is taken to be inside the picture.

    Raises:
        InputError: A value is out of its range.
    """

    every: int = 5
    smooth: float = 0.5
    batch_size: int = 8
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        Ranges(
            [
                (whole, "a whole number from 1", "every batch_size"),
                (rate, "a number from 0 to less than 1", "smooth"),
                (lambda value: real(value) and 0 <= value <= 1, "a number from 0 to 1", "threshold"),
            ]
        ).check(asdict(self))
