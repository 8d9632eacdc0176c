"""The frames of a video with the people in them, and where they look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gazelle.estimation import Estimator, Look
from gazelle.people.source import HeadSource
from gazelle.relations import Person, looks_inside, relate
from gazelle.video.following import Sighting, follow
from gazelle.video.settings import EXTRA, VideoSettings
from plm_core.video import Video, require_av


@dataclass(frozen=True)
class GazeFrame:
    """A frame of a video and the people in it.

    Attributes:
        number: Its number, from 0.
        time: When it is shown, in seconds from the first frame.
        pixels: uint8 [H, W, 3].
        people: The people in the order of their numbers, which are the same in every frame.
    """

    number: int
    time: float
    pixels: NDArray[np.uint8]
    people: list[Person]


class Smoothing:
    """The exponential smoothing of the points that people look at.

    It begins anew for a person who was not there, or looked out of the picture, in the frame before.

    Args:
        share: Share of the past, from 0 to less than 1.
        threshold: The probability from which a target is taken to be inside the picture.
    """

    def __init__(self, share: float, threshold: float) -> None:
        self.share = share
        self.threshold = threshold
        self._last: dict[int, tuple[float, float]] = {}

    def __call__(self, ids: Sequence[int], looks: Sequence[Look]) -> list[Look]:
        """Return the looks of the people in the next frame with smoothed points."""
        smooth = [self._mixed(number, look) for number, look in zip(ids, looks, strict=True)]
        self._last = {
            number: look.point
            for number, look in zip(ids, smooth, strict=True)
            if looks_inside(look, self.threshold) is not False
        }
        return smooth

    def _mixed(self, number: int, look: Look) -> Look:
        past = self._last.get(number)
        if past is None or looks_inside(look, self.threshold) is False:
            return look
        x, y = (self.share * old + (1 - self.share) * new for old, new in zip(past, look.point, strict=True))
        return replace(look, point=(x, y))


def gaze_frames(
    estimator: Estimator,
    path: str | Path,
    source: HeadSource | None = None,
    settings: VideoSettings | None = None,
    advance: Callable[[float], None] = lambda amount: None,
) -> Iterator[GazeFrame]:
    """Yield the frames of a video with the people in them, and where they look.

    The video is read twice, first for the boxes of all frames and then for the gazes, so that no more than a batch of
    frames is in memory.

    Args:
        estimator: The model.
        path: The video.
        source: Where head boxes are from. None finds people with the default detector.
        settings: How the video is gone through. None for the defaults.
        advance: Called with numbers of frames, half for each of the two times that the video is read.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The video cannot be read, or see `gazelle.people.source.HeadSource`.
    """
    require_av(EXTRA)
    source, settings = source or HeadSource(), settings or VideoSettings()
    video = Video(path)
    people = follow(video, str(path), source, settings.every, lambda amount: advance(amount / 2))
    smooth = Smoothing(settings.smooth, settings.threshold)
    frames = (frame.numpy() for frame in video.frames())
    number = 0
    while batch := list(islice(frames, settings.batch_size)):
        seen = people[number : number + len(batch)]
        for pixels, sightings, looks in zip(batch, seen, _looks(estimator, batch, seen), strict=True):
            ids = [sighting.id for sighting in sightings]
            scores = [sighting.score for sighting in sightings]
            persons = relate(smooth(ids, looks), ids, scores, settings.threshold)
            yield GazeFrame(number, video.seconds(number), pixels, persons)
            number += 1
            advance(0.5)


def _looks(
    estimator: Estimator, batch: Sequence[NDArray[np.uint8]], seen: Sequence[Sequence[Sighting]]
) -> list[list[Look]]:
    """Return where people look in frames. Frames without people are not encoded."""
    busy = [i for i, sightings in enumerate(seen) if sightings]
    scenes = estimator.encode_batch([batch[i] for i in busy])
    looks = estimator.look_batch(scenes, [[sighting.box for sighting in seen[i]] for i in busy])
    found = dict(zip(busy, looks, strict=True))
    return [found.get(i, []) for i in range(len(batch))]
