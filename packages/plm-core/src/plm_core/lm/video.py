"""Frames of a video for the model: which are taken, how they are read, and what its answers about them mean in seconds.

The model is shown up to 32 frames and is told no times. It speaks of frames 0 to 31, whatever the length of the video:
`TimeMap` translates.

Shapes: T frames shown to the model, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from plm_core.errors import InputError
from plm_core.lm.tiling import check_counts
from plm_core.utils.ranges import real
from plm_core.video.file import Video

CLOCK = 1e-6
"""Seconds by which a time may lie before a frame's and still mean that frame, since times are rounded."""
SPAN = re.compile(r"(?:\b[Ff]rames? )?\[(\d{1,6}), *(\d{1,6})\]|\b[Ff]rames (\d{1,6}) to (\d{1,6})\b(?!\.\d)")
"""The spans of frames in an answer: ``[12, 20]``, also after the word "frames", and ``frames 12 to 20``."""


# --- which frames -----------------------------------------------------------------------------------------------


def frame_indices(
    num_frames: int,
    fps: float,
    max_frames: int = 32,
    sampling_fps: float = 1,
    start: float | None = None,
    end: float | None = None,
) -> list[int]:
    """Choose the frames that the model is shown, as the original does.

    Frames are taken at ``sampling_fps`` per second, from the frame at ``start`` to the one at ``end``, which is also
    taken. If that gives more than ``max_frames``, they are thinned out evenly. If it gives fewer, ``max_frames`` of all
    frames of the range are taken evenly, or all of them. A start after the end changes places with it.

    It differs from the original in two cases, where that fails or gives frames that do not exist:

    - Frames beyond the last are the last. The original runs over the end for a video of one frame, for a range at the
      last frame, and for a start beyond the end. The last frame may then be given several times.
    - Below half of ``sampling_fps`` frames per second every frame is taken. The original takes a step of 0 and fails.

    Args:
        num_frames: Number of frames in the video.
        fps: Frames per second of the video.
        max_frames: The number of frames that the model is shown at most.
        sampling_fps: Frames taken per second; its fraction is cut off.
        start: Start of the range in seconds; None for the beginning.
        end: End of the range in seconds; None for the end.

    Returns:
        Frame numbers, ascending.

    Raises:
        InputError: An argument has a value that is not allowed.
    """
    check_counts(num_frames=num_frames)
    if not (real(fps) and fps > 0):
        raise InputError(f"fps {fps!r} is not allowed: a number above 0 is")
    _check_times(start=start, end=end)
    first = 0 if start is None else math.floor(start * fps)
    last = num_frames - 1 if end is None else min(math.floor(end * fps), num_frames - 1)
    return _spread(first, last, num_frames, fps, max_frames, sampling_fps)


def check_sampling(max_frames: int, sampling_fps: float) -> None:
    """Check the number of frames and the frames per second that are taken.

    Raises:
        InputError: One of them is not allowed.
    """
    check_counts(max_frames=max_frames)
    if not (real(sampling_fps) and sampling_fps >= 1):
        raise InputError(f"sampling_fps {sampling_fps!r} is not allowed: a number from 1 is")


def _spread(first: int, last: int, num_frames: int, fps: float, max_frames: int, sampling_fps: float) -> list[int]:
    check_sampling(max_frames, sampling_fps)
    first, last = min(first, last), max(first, last)
    last = max(last, first + 1)
    numbers: Sequence[int] = range(first, last + 1, max(round(fps / int(sampling_fps)), 1))
    if len(numbers) < max_frames:
        numbers = range(first, last + 1)
    return [min(numbers[i], num_frames - 1) for i in _evenly(len(numbers), min(max_frames, len(numbers)))]


def _evenly(length: int, count: int) -> list[int]:
    """Return ``count`` of the numbers 0 to ``length - 1`` evenly, with both ends. One alone is 0."""
    return [round(i * (length - 1) / (count - 1)) for i in range(count)] if count > 1 else [0]


# --- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """Frames that were read from a video.

    Attributes:
        pixels: The frames, uint8 [T, H, W, 3], or what was made of each.
        indices: Their numbers in the video, ascending.
        seconds: When each is shown, in seconds from the first frame of the video.
        rate: Frames per second of the video.
        duration: Length of the video in seconds.
    """

    pixels: Tensor
    indices: list[int]
    seconds: list[float]
    rate: float
    duration: float

    @property
    def times(self) -> TimeMap:
        """The map from the model's frames 0 to T - 1 to the video's."""
        return TimeMap(tuple(self.indices), tuple(self.seconds))


def read_frames(
    path: str | Path,
    max_frames: int = 32,
    sampling_fps: float = 1,
    start: float | None = None,
    end: float | None = None,
    each: Callable[[Tensor], Tensor] | None = None,
) -> VideoFrames:
    """Read the frames of a video that the model is shown, in one pass over the file.

    The frames are those of `frame_indices`, each once. A time is looked up among the times of the frames, so a range is
    right in files with a varying rate too. Rotations that the file states are applied. Of a truncated file, the frames
    that are left are the video.

    Args:
        path: The file, in any format that FFmpeg reads.
        max_frames: The number of frames to read at most.
        sampling_fps: Frames taken per second; its fraction is cut off.
        start: Start of the range in seconds; None for the beginning.
        end: End of the range in seconds; None, or a time after the video, for the end.
        each: Function that is applied to each frame, uint8 [H, W, 3], once it is decoded, for example to shrink it.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video, is damaged, or the range lies outside it; the message names the file.
    """
    _check_times(start=start, end=end)
    if start is not None and end is not None and start > end:
        raise InputError(f"start {start:g} lies after end {end:g}; a range in seconds begins before it ends")
    video = Video(path)
    total = len(video)
    duration = video.seconds(total)
    if start is not None and start >= duration:
        raise InputError(f"start {start:g} lies outside {video.name}, which lasts {duration:.2f} s")
    first = 0 if start is None else _frame_at(video, start)
    last = total - 1 if end is None else _frame_at(video, end)
    indices = sorted(set(_spread(first, last, total, video.rate, max_frames, sampling_fps)))
    seconds = [video.seconds(i) for i in indices]
    pixels = video.read(indices, each)
    return VideoFrames(pixels=pixels, indices=indices, seconds=seconds, rate=video.rate, duration=duration)


def _frame_at(video: Video, seconds: float) -> int:
    """Return the number of the frame that is on the screen at a time."""
    return max(bisect_right(range(len(video)), seconds + CLOCK, key=video.seconds) - 1, 0)


def _check_times(**times: Any) -> None:
    for name, value in times.items():
        if value is not None and not (real(value) and value >= 0):
            raise InputError(f"{name} {value!r} is not allowed: seconds from 0 are, and None")


# --- answers in seconds -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeMap:
    """What the positions 0 to T - 1, of which the model speaks, are in the video.

    Attributes:
        indices: The number of each frame in the video, ascending.
        seconds: When each is shown, in seconds from the first frame of the video.
    """

    indices: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.indices or len(self.indices) != len(self.seconds):
            raise InputError(
                f"indices and seconds have {len(self.indices)} and {len(self.seconds)} values; as many of both are "
                "expected, and at least one"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def frame(self, position: int) -> int:
        """Return the number in the video of the frame at a position."""
        return self.indices[self._checked(position)]

    def second(self, position: int) -> float:
        """Return when the frame at a position is shown."""
        return self.seconds[self._checked(position)]

    def position_of_frame(self, index: int) -> int:
        """Return the position whose frame is closest to a frame of the video, the earlier one of two."""
        return min(range(len(self)), key=lambda i: abs(self.indices[i] - index))

    def position_of_second(self, seconds: float) -> int:
        """Return the position whose frame is shown closest to a time, the earlier one of two."""
        return min(range(len(self)), key=lambda i: abs(self.seconds[i] - seconds))

    def _checked(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise InputError(f"position {position} is not allowed: 0 to {len(self) - 1} are")
        return position


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span of frames in an answer, in order.

    Attributes:
        first: The position of its first frame.
        last: The position of its last frame.
        start: When the first frame is shown, in seconds.
        end: When the last frame is shown, in seconds.
    """

    first: int
    last: int
    start: float
    end: float


def in_seconds(answer: str, times: TimeMap) -> tuple[str, list[Span]]:
    """Rewrite the spans of frames in an answer as times, and return them too.

    ``[12, 20]`` and ``frames [12, 20]`` become ``[24.00 s, 40.00 s]``, and ``frames 12 to 20`` becomes ``24.00 s to
    40.00 s``. A span that is told backwards is turned round. Nothing else is changed: neither single numbers, nor
    brackets of one, three or more numbers (boxes), nor fractions, nor spans that reach beyond the last position. Two
    other numbers in brackets cannot be told from a span.

    Args:
        answer: What the model said.
        times: The map of the video that it was shown.

    Returns:
        The answer, and the spans in the order in which they stand in it.
    """
    spans: list[Span] = []

    def told(match: re.Match[str]) -> str:
        first, last = sorted(int(number) for number in match.groups() if number is not None)
        if last >= len(times):
            return match[0]
        span = Span(first=first, last=last, start=times.second(first), end=times.second(last))
        spans.append(span)
        form = "[{:.2f} s, {:.2f} s]" if match[1] is not None else "{:.2f} s to {:.2f} s"
        return form.format(span.start, span.end)

    return SPAN.sub(told, answer), spans
