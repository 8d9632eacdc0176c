"""Datasets of clips: from labelled videos, and from a folder with one folder of videos per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from plm_core.datasets.folder import read_videos
from plm_core.datasets.labelled import Dataset as Labelled
from plm_core.errors import InputError
from plm_core.hookspecs import Input
from plm_core.utils.progress import track
from plm_core.video.clips import FRAMES, STRIDE, ClipSettings, Pad, check_sampling, clip_frames, last_start
from plm_core.video.file import Video

MAX_NAMES = 5
"""Number of short videos that an error names."""


class VideoClips(Dataset[tuple[Any, int]]):
    """A dataset of clips from labelled videos, each with the number of its class.

    Args:
        samples: The path of each video with the number of its class.
        frames: Number of frames in a clip.
        stride: Step from one frame to the next: 4 takes every fourth.
        transform: Function that is applied to each clip, uint8 [T, H, W, 3], for example a `per_clip`.
        training: Whether clips start at a frame drawn from torch's generator; otherwise they are from the middle.
        pad: "last" or None; see `read_clip`.

    Raises:
        InputError: ``frames`` or ``stride`` is no whole number from 1. On indexing: a video cannot be read; the message
            names the file.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, int]],
        frames: int = FRAMES,
        stride: int = STRIDE,
        transform: Callable[[Tensor], Any] | None = None,
        training: bool = True,
        pad: Pad = None,
    ) -> None:
        check_sampling(frames, stride)
        self.samples = samples
        self.frames, self.stride, self.pad = frames, stride, pad
        self.transform = transform
        self.training = training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        video = Video(path)
        latest = last_start(len(video), self.frames, self.stride)
        start = int(torch.randint(latest + 1, ())) if self.training else latest // 2
        clip = video.read(clip_frames(len(video), self.frames, self.stride, start, self.pad, path))
        return (clip if self.transform is None else self.transform(clip)), label


def open_clips(
    data: Labelled, spec: Input, settings: ClipSettings, transform: Callable[[Tensor], Any], training: bool = True
) -> VideoClips:
    """Return the clips of labelled videos for a model.

    Args:
        data: The videos.
        spec: Input of the model, whose ``frames`` is a number.
        settings: The stride, and what happens to short videos.
        transform: As for `VideoClips`.
        training: As for `VideoClips`.

    Raises:
        InputError: The stride is not allowed; or ``pad`` is None, and videos are shorter than a clip. The message says
            how many, and names the first ones.
    """
    stride = spec.stride if settings.stride is None else settings.stride
    samples = list(zip(data.items, data.labels.tolist(), strict=True))
    clips = VideoClips(samples, spec.frames or 1, stride, transform, training, settings.pad)
    if settings.pad is None:
        _check_lengths(data, clips)
    return clips


def _check_lengths(data: Labelled, clips: VideoClips) -> None:
    needed = (clips.frames - 1) * clips.stride + 1
    lengths = [len(Video(path)) for path in track(data.items, "measuring videos", len(data))]
    short = [f"{name} ({length})" for name, length in zip(data.names, lengths, strict=True) if length < needed]
    if short:
        more = f" and {len(short) - MAX_NAMES} more" if len(short) > MAX_NAMES else ""
        raise InputError(
            f"{len(short)} of {len(data)} videos of {data.source!r} have fewer than the {needed} frames that "
            f"{clips.frames} frames, stride {clips.stride} need: {', '.join(short[:MAX_NAMES])}{more} (pad='last' "
            "repeats the last frame)"
        )


class VideoFolder(VideoClips):
    """A dataset of clips from the videos ``root/class/clip.mp4``, each with the number of its class.

    Args:
        root: Folder with one folder per class, as `plm_core.datasets.folder.read_videos` reads it. The names of the
            classes are ``classes``.
        frames: Number of frames in a clip; this and all further arguments are those of `VideoClips`.
        stride: Step from one frame to the next.
        transform: Function that is applied to each clip.
        training: Whether clips start at a frame drawn from torch's generator.
        pad: "last" or None.

    Raises:
        InputError: There is no video in any class folder, see `read_videos`. Otherwise as for `VideoClips`.
    """

    def __init__(
        self,
        root: str | Path,
        frames: int = FRAMES,
        stride: int = STRIDE,
        transform: Callable[[Tensor], Any] | None = None,
        training: bool = True,
        pad: Pad = None,
    ) -> None:
        check_sampling(frames, stride)
        if not Path(root).is_dir():
            raise InputError(f"root {str(root)!r} is not a folder")
        data = read_videos(Path(root))
        self.classes = list(data.classes)
        samples = list(zip(data.items, data.labels.tolist(), strict=True))
        super().__init__(samples, frames, stride, transform, training, pad)
