"""Datasets of clips: from labelled videos, and from a folder with one folder of videos per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from plm_core.datasets.folder import read_videos
from plm_core.errors import InputError
from plm_core.video.clips import FRAMES, STRIDE, Pad, check_sampling, clip_frames, last_start
from plm_core.video.file import Video


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
