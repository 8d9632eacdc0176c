"""Clips of a video: the numbers of their frames, and their form in memory.

Shapes: T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plm_core.errors import InputError
from plm_core.video.file import Video

# The clips of Hiera's recipes and of many others: 16 frames, every fourth.
FRAMES = 16
STRIDE = 4

Pad = Literal["last"] | None
Frames = NDArray[np.uint8] | Tensor


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How a recipe takes clips from videos; its configuration inherits these settings.

    Attributes:
        stride: Step from one frame of a clip to the next: 4 takes every fourth. None for the model's own.
        pad: "last" repeats the last frame of a video that is shorter than a clip. None refuses such videos before the
            training starts.
    """

    stride: int | None = None
    pad: Pad = "last"


def read_clip(
    path: str | Path, frames: int = FRAMES, stride: int = STRIDE, start: int | None = None, pad: Pad = None
) -> Tensor:
    """Read one clip from a video file.

    Args:
        path: The file.
        frames: Number of frames in the clip.
        stride: Step from one frame to the next: 4 takes every fourth.
        start: Number of the first frame, from 0; None for a clip from the middle.
        pad: "last" repeats the last frame if the video is too short; None raises an error instead.

    Returns:
        uint8 [frames, H, W, 3].

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video, is damaged or is too short; the message says how many frames it has.
    """
    check_sampling(frames, stride)
    video = Video(path)
    if start is None:
        start = last_start(len(video), frames, stride) // 2
    return video.read(clip_frames(len(video), frames, stride, start, pad, video.name))


def check_sampling(frames: int, stride: int) -> None:
    """Check that the number of frames and the stride are whole numbers from 1."""
    for name, value in {"frames": frames, "stride": stride}.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")


def last_start(length: int, frames: int, stride: int) -> int:
    """Return the number of the last frame at which a whole clip can start; 0 if the video is too short."""
    return max(length - (frames - 1) * stride - 1, 0)


def clip_frames(length: int, frames: int, stride: int, start: int, pad: Pad, video: Any) -> list[int]:
    """Return the numbers of a clip's frames in a video of ``length`` frames, which error messages call ``video``."""
    if pad not in (None, "last"):
        raise InputError(f"pad {pad!r} is not allowed: 'last' and None are")
    if not 0 <= start < length:
        raise InputError(f"start {start} is outside {video}, which has {length} frames that can be decoded")
    needed = start + (frames - 1) * stride + 1
    if needed > length and pad is None:
        raise InputError(
            f"{video} has {length} frames that can be decoded; {frames} frames, stride {stride}, start {start} need "
            f"{needed} (pad='last' repeats the last one)"
        )
    return [min(start + i * stride, length - 1) for i in range(frames)]


def frames_tensor(video: Frames) -> Tensor:
    """Return frames as a tensor, uint8 [T, H, W, 3], and raise an InputError for any other form."""
    pictures = torch.as_tensor(video)
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.numel():
        raise InputError(
            f"video is {pictures.dtype} {list(pictures.shape)}; uint8 [frames, height, width, 3] is expected"
        )
    return pictures
