"""Consecutive windows of a video, each a clip of a model's length.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from plm_core.hookspecs import Input
from plm_core.video.clips import check_sampling, clip_frames, last_start
from plm_core.video.file import Video
from plm_core.video.pixels import cover, crop, normalise


def window_starts(length: int, frames: int, stride: int) -> list[int]:
    """Return the numbers of the first frames of the windows of a video of ``length`` frames.

    Each window begins where the one before it ends. The last one begins earlier if it would not be whole otherwise, and
    then overlaps the one before it. A video that is shorter than a window has a single one.

    Args:
        length: Number of frames of the video, at least 1.
        frames: Number of frames in a window.
        stride: Step from one frame of a window to the next: 4 takes every fourth.
    """
    check_sampling(frames, stride)
    latest = last_start(length, frames, stride)
    starts = range(0, length, frames * stride)
    return list(dict.fromkeys(min(start, latest) for start in starts))


def read_windows(video: Video, starts: Sequence[int], spec: Input) -> Tensor:
    """Read windows of a video in one pass. Frames are resized and cropped at their centre.

    Args:
        video: The video.
        starts: Numbers of the first frames. After the last frame of the video, it is repeated.
        spec: Input of the model, whose ``frames`` is a number.

    Returns:
        Normalised clips, float32 [len(starts), 3, T, H, W].

    Raises:
        InputError: A frame cannot be decoded.
    """
    frames, size = spec.frames or 1, spec.size[1:]
    numbers = [n for start in starts for n in clip_frames(len(video), frames, spec.stride, start, "last", video.name)]
    fit = partial(_centre, size=size, zoom=1 / spec.crop_pct)
    return normalise(video.read(numbers, fit).unflatten(0, (len(starts), frames)), spec)


def _centre(picture: Tensor, size: Sequence[int], zoom: float) -> Tensor:
    return crop(cover(picture, size, zoom), size, 0.5)
