"""A video split at its cuts, and put together again as clips of about 30 seconds with key frames.

A cut is a frame that differs from the one before far more than its neighbours do from theirs. Two measures are taken on
small pictures: how far the levels of the pixels move, and how far their histograms do. Motion changes the first, and
flicker the second; a cut changes both. Slow fades are no cuts.

The same file gives the same scenes. It is decoded once, and one frame of full size is held at a time.

Shapes: N frames of the video, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plm_core.errors import InputError
from plm_core.utils.ranges import real, whole
from plm_core.video.file import Video

SMALL = 64
"""The largest side of the small pictures, in pixels. They are taken from the frames by steps, which costs little."""
CELLS = 8
"""The side of the signature of a frame, by which typical frames are found and flashes are told from cuts."""
BINS = 16
"""The bins of a histogram."""
SHARES = np.clip(1 - np.abs(np.arange(256)[:, None] * (BINS - 1) / 255 - np.arange(BINS)), 0, 1)
"""The share of each level in each bin, [256, BINS]. A level between two bins counts in both, so a small change of the
light moves no pixel from one to the other all at once."""
NEAR = 5
"""The frames on each side that a frame is compared with."""

Levels = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """How videos are split.

    Attributes:
        threshold: The least change at a cut, from 0 to 1.
        contrast: How many times the change at a cut exceeds the median change of the frames around it, at least.
        shortest: The shortest time between two cuts, in seconds.
        seconds: The length of a clip, about: scenes are joined up to it, and scenes longer than one and a half of it
            are cut into equal parts. None for a clip per scene.
        key_seconds: Seconds of a scene for which it gets a key frame. Each scene gets one at least.
        key_frames: The number of key frames of a clip at most.

    Raises:
        InputError: A setting has a value that is not allowed.
    """

    threshold: float = 0.08
    contrast: float = 3.0
    shortest: float = 0.5
    seconds: float | None = 30.0
    key_seconds: float = 10.0
    key_frames: int = 8

    def __post_init__(self) -> None:
        for name in ("threshold", "contrast", "shortest", "seconds", "key_seconds"):
            value = getattr(self, name)
            if not (real(value) and value > 0) and not (name == "seconds" and value is None):
                raise InputError(f"{name} {value!r} is not allowed: a number above 0 is")
        if not whole(self.key_frames):
            raise InputError(f"key_frames {self.key_frames!r} is not allowed: a whole number from 1 is")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A part of a video to write a caption of.

    Attributes:
        first: The number of its first frame.
        last: The number of its last frame.
        start: When the first frame is shown, in seconds.
        end: When the last frame is shown, in seconds.
        keys: The numbers of the key frames, ascending.
        cuts: The numbers of the frames within it that come right after a cut.
    """

    first: int
    last: int
    start: float
    end: float
    keys: tuple[int, ...]
    cuts: tuple[int, ...] = ()


def split(
    path: str | Path | Video, settings: SceneSettings | None = None, advance: Callable[[int], None] | None = None
) -> list[Scene]:
    """Split a video into clips with key frames.

    Args:
        path: The file.
        settings: How it is split.
        advance: A function that is called with the number of frames that were looked at since the last call.

    Returns:
        The clips in order. Together they have all frames of the video.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video, or is damaged; the message names the file.
    """
    settings = settings or SceneSettings()
    video = path if isinstance(path, Video) else Video(path)
    changes, signatures = _measured(video.frames(), advance)
    cuts = find_cuts(changes, signatures, video.rate, settings)
    clips = _clips(_borders(cuts, len(video)), video.rate, settings.seconds)
    return [_scene(video, first, end, cuts, signatures, settings) for first, end in clips]


def find_cuts(changes: Levels, signatures: Levels, rate: float, settings: SceneSettings) -> list[int]:
    """Return the numbers of the frames that come right after a cut.

    Args:
        changes: The change from the frame before, from 0 to 1, float32 [N]; 0 for the first frame.
        signatures: The levels of a few large cells of each frame, from 0 to 1, float32 [N, K].
        rate: Frames per second.
        settings: How the video is split.
    """
    apart = max(round(settings.shortest * rate), 1)
    candidates = [
        number
        for number in np.flatnonzero(changes >= settings.threshold).tolist()
        if _stands_out(changes, number, settings.contrast) and _stays(signatures, number)
    ]
    cuts: list[int] = []
    for number in sorted(candidates, key=lambda number: (-changes[number], number)):  # the clearest first
        if all(abs(number - other) >= apart for other in cuts) and apart <= number <= len(changes) - apart:
            cuts.append(number)
    return sorted(cuts)


def _stands_out(changes: Levels, number: int, contrast: float) -> bool:
    """Return whether the change at a frame is far larger than those at the frames around it."""
    around = np.concatenate([changes[max(number - NEAR, 1) : number], changes[number + 1 : number + 1 + NEAR]])
    return not len(around) or bool(changes[number] >= contrast * np.median(around))


def _stays(signatures: Levels, number: int) -> bool:
    """Return whether the frames after a change differ from those before. After a flash they do not."""
    before = np.median(signatures[max(number - NEAR, 0) : number], axis=0)
    after = np.median(signatures[number : number + NEAR], axis=0)
    step = np.abs(signatures[number] - signatures[number - 1]).mean()
    return bool(np.abs(after - before).mean() >= step / 2)


def _measured(frames: Iterable[Tensor], advance: Callable[[int], None] | None) -> tuple[Levels, Levels]:
    """Return the changes [N] and the signatures [N, CELLS * CELLS * 3] of frames."""
    changes: list[float] = []
    signatures: list[Levels] = []
    before: tuple[Levels, Levels] | None = None
    for frame in frames:
        small = _small(frame)
        histogram = _histogram(small)
        levels = (small / 255).astype(np.float32)
        changes.append(0.0 if before is None else _change(before, (levels, histogram)))
        signatures.append(_cells(levels))
        before = levels, histogram
        if advance is not None:
            advance(1)
    return np.array(changes, np.float32), np.stack(signatures)


def _small(frame: Tensor) -> NDArray[np.uint8]:
    """Return every n-th pixel of a frame, uint8 [h, w, 3], with at most `SMALL` on a side."""
    height, width = frame.shape[:2]
    small: NDArray[np.uint8] = frame[:: math.ceil(height / SMALL), :: math.ceil(width / SMALL)].numpy()
    return small


def _histogram(small: NDArray[np.uint8]) -> Levels:
    """Return the shares of the pixels in the bins of each channel, [3, BINS]."""
    flat = small.reshape(-1, 3)
    counts = np.stack([np.bincount(flat[:, channel], minlength=256) for channel in range(3)])
    return (counts @ SHARES / len(flat)).astype(np.float32)


def _change(before: tuple[Levels, Levels], now: tuple[Levels, Levels]) -> float:
    """Return the geometric mean of the two measures, which is small if one of them is."""
    moved = np.abs(now[0] - before[0]).mean()
    shifted = np.abs(now[1] - before[1]).sum(1).mean() / 2
    return float(np.sqrt(moved * shifted))


def _cells(levels: Levels) -> Levels:
    """Return the mean levels of large cells of a small picture, as one row."""
    rows, columns = (
        np.unique(np.linspace(0, size, CELLS, endpoint=False, dtype=int)) for size in (levels.shape[0], levels.shape[1])
    )
    sums = np.add.reduceat(np.add.reduceat(levels, rows, axis=0), columns, axis=1)
    heights, widths = np.diff([*rows, levels.shape[0]]), np.diff([*columns, levels.shape[1]])
    means: Levels = (sums / (heights[:, None, None] * widths[None, :, None])).astype(np.float32).ravel()
    return means


def _borders(cuts: Sequence[int], length: int) -> list[tuple[int, int]]:
    """Return the first frame of each scene, and the one after its last."""
    edges = [0, *cuts, length]
    return list(pairwise(edges))


def _clips(scenes: Sequence[tuple[int, int]], rate: float, seconds: float | None) -> list[tuple[int, int]]:
    """Join scenes up to a length, and cut the longer ones into equal parts."""
    if seconds is None:
        return list(scenes)
    longest = max(round(seconds * rate), 1)
    clips: list[tuple[int, int]] = []
    for first, end in scenes:
        if clips and end - clips[-1][0] <= longest:
            clips[-1] = (clips[-1][0], end)
        else:
            clips.append((first, end))
    return [part for clip in clips for part in _parts(*clip, longest)]


def _parts(first: int, end: int, longest: int) -> Iterator[tuple[int, int]]:
    """Yield a clip, in equal parts if it is longer than one and a half of the longest length."""
    count = 1 if end - first <= 1.5 * longest else math.ceil((end - first) / longest)
    edges = [first + (end - first) * part // count for part in range(count + 1)]
    yield from pairwise(edges)


def _scene(
    video: Video, first: int, end: int, cuts: Sequence[int], signatures: Levels, settings: SceneSettings
) -> Scene:
    within = [cut for cut in cuts if first < cut < end]
    step = settings.key_seconds * video.rate
    keys = []
    for start, stop in zip([first, *within], [*within, end], strict=True):
        count = min(max(math.ceil((stop - start) / step), 1), stop - start)
        edges = [start + (stop - start) * part // count for part in range(count + 1)]
        keys += [_typical(signatures, a, b) for a, b in pairwise(edges)]
    if len(keys) > settings.key_frames:
        keys = [keys[(2 * i + 1) * len(keys) // (2 * settings.key_frames)] for i in range(settings.key_frames)]
    return Scene(
        first=first,
        last=end - 1,
        start=_milliseconds(video.seconds(first)),
        end=_milliseconds(video.seconds(end - 1)),
        keys=tuple(keys),
        cuts=tuple(within),
    )


def _typical(signatures: Levels, first: int, end: int) -> int:
    """Return the frame that is closest to the median of a range of frames. The middle one wins among equals."""
    part = signatures[first:end]
    distances = np.abs(part - np.median(part, axis=0)).mean(1).round(4)
    middle = (end - first - 1) / 2
    return first + min(range(end - first), key=lambda number: (distances[number], abs(number - middle)))


def _milliseconds(seconds: float) -> float:
    """Return a time with three decimals that is not earlier, since an earlier one would name the frame before."""
    return math.ceil(seconds * 1000 - 1e-6) / 1000
