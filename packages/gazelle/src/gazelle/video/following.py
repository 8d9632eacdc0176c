"""The people in the frames of a video, with the same number for a person in every frame.

People are looked for in some frames. `gazelle.people.Tracker` says who is who. In between, the box of a person moves
evenly from one sighting to the next, also where the detector has missed the person in the meantime. After the last
sighting it stays until people are looked for again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gazelle.people.reading import Box
from gazelle.people.source import HeadSource
from gazelle.people.tracks import Tracker
from plm_core.video import Video

HIDDEN = 10
"""Number of frames, about, in which somebody may not be found and still keeps the number."""


@dataclass(frozen=True)
class Sighting:
    """A person in a frame.

    Attributes:
        id: The number of the person, from 1.
        box: The box of the head in fractions, or None for a person without one.
        score: How sure the detector is. None if the box is not from a detection in this frame.
    """

    id: int
    box: Box | None
    score: float | None = None


Found = Mapping[int, Sequence[tuple[int, Sighting]]]
"""The frames in which each person was found, by the person's number."""


def follow(
    video: Video, path: str, source: HeadSource, every: int, advance: Callable[[float], None] = lambda amount: None
) -> list[list[Sighting]]:
    """Return the people in each frame of a video, in the order of their numbers.

    Args:
        video: The video. Its frames are read once, unless the boxes are known.
        path: Its path, by which boxes of a file are found.
        source: Where head boxes are from. Given ones are those of every frame.
        every: The step between frames in which people are looked for.
        advance: Called with the number of frames after each step.

    Raises:
        InputError: The video cannot be read, or see `gazelle.people.source.HeadSource`.
    """
    tracker = Tracker(max_missed=math.ceil(HIDDEN / every))
    found: dict[int, list[tuple[int, Sighting]]] = defaultdict(list)
    for i, frame in enumerate(video.frames(every)):
        height, width = frame.shape[:2]
        if (known := source.known(path, width, height)) is not None:
            people = [Sighting(k, box) for k, box in enumerate(known.boxes, 1)]
            advance(len(video))
            return [people] * len(video)
        seen = source.find(frame.numpy(), path)
        ids = (tracker.update([box for box in seen.boxes if box], [s or 0.0 for s in seen.scores]) + 1).tolist()
        for number, box, score in zip(ids, seen.boxes, seen.scores, strict=True):
            found[number].append((i * every, Sighting(number, box, score)))
        advance(min(every, len(video) - i * every))
    return fill(found, len(video), every)


def fill(found: Found, length: int, every: int) -> list[list[Sighting]]:
    """Return the people in each of ``length`` frames, from those in which they were found, see this module."""
    frames: list[list[Sighting]] = [[] for _ in range(length)]
    for number in sorted(found):
        sightings = found[number]
        last, sighting = sightings[-1]
        end = min(last + every, length)
        for (start, a), (stop, b) in zip(sightings, [*sightings[1:], (end, sighting)], strict=True):
            for frame in range(start, stop):
                frames[frame].append(a if frame == start else _between(a, b, (frame - start) / (stop - start)))
    return frames


def _between(a: Sighting, b: Sighting, share: float) -> Sighting:
    if a.box is None or b.box is None:
        return Sighting(a.id, a.box)
    x0, y0, x1, y1 = (start + share * (end - start) for start, end in zip(a.box, b.box, strict=True))
    return Sighting(a.id, (x0, y0, x1, y1))
