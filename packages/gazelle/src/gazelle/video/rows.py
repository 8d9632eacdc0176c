"""The table of a video: one row for each person and frame.

column             value
frame              number of the frame, from 0
time               when it is shown, in seconds from the first frame
id                 number of the person, from 1, the same in every frame
x0, y0, x1, y1     box of the head in pixels; empty for a person without one
detector_score     how sure the detector is; empty where the box is given, or between two detections
x, y               point looked at in pixels, smoothed over time
score              value of the heatmap at its highest point, from 0 to 1
inside             probability that the target is inside the picture; empty for a model that does not tell
looks_at           number of the person whose head is looked at, or empty
looks_at_camera    1 or 0, by a rule of thumb and not by the model, see `gazelle.relations`; empty if it cannot be said
mutual             number of the person who is looked at and looks back, or empty
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gazelle.video.looking import GazeFrame

COLUMNS = (
    "frame", "time", "id", "x0", "y0", "x1", "y1", "detector_score", "x", "y", "score", "inside", "looks_at",
    "looks_at_camera", "mutual",
)  # fmt: skip


def rows_of(frame: GazeFrame) -> Iterator[dict[str, Any]]:
    """Yield a row for each person in a frame, with the columns `COLUMNS`."""
    height, width = frame.pixels.shape[:2]
    for person in frame.people:
        look = person.look
        box = (
            ("", "", "", "")
            if look.box is None
            else (v * s for v, s in zip(look.box, (width, height) * 2, strict=True))
        )
        values = (
            frame.number, round(frame.time, 4), person.id, *map(_short, box), _short(person.detector_score),
            _short(look.point[0] * width), _short(look.point[1] * height), _short(look.score), _short(look.inside),
            _number(person.looks_at), _number(person.looks_at_camera), _number(person.mutual),
        )  # fmt: skip
        yield dict(zip(COLUMNS, values, strict=True))


def _short(value: float | str | None) -> float | str:
    return "" if value is None or isinstance(value, str) else round(value, 4)


def _number(value: int | None) -> int | str:
    return "" if value is None else int(value)
