"""Datasets of clips: from labelled videos, and from a folder with one folder of videos per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from plm_core.errors import InputError
from plm_core.utils.endings import VIDEOS
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
        root: Folder with one folder per class. Their sorted names are ``classes``. Names that begin with a dot are
            ignored.
        frames: Number of frames in a clip; this and all further arguments are those of `VideoClips`.
        stride: Step from one frame to the next.
        transform: Function that is applied to each clip.
        training: Whether clips start at a frame drawn from torch's generator.
        pad: "last" or None.

    Raises:
        InputError: The folder has no class folders, or one of them has no videos. Otherwise as for `VideoClips`.
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
        root = Path(root)
        if not root.is_dir():
            raise InputError(f"root {str(root)!r} is not a folder")
        folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        if not folders:
            raise InputError(f"root {str(root)!r} has no folders, one for each class")
        self.classes = [folder.name for folder in folders]
        samples: list[tuple[Path, int]] = []
        for label, folder in enumerate(folders):
            files = [f for f in folder.iterdir() if f.suffix.lower() in VIDEOS and not f.name.startswith(".")]
            if not files:
                raise InputError(f"class folder {str(folder)!r} has no videos ({', '.join(VIDEOS)})")
            samples += [(file, label) for file in sorted(files)]
        super().__init__(samples, frames, stride, transform, training, pad)
