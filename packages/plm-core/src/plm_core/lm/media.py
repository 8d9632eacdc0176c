"""Images and videos as the chunks that the vision tower sees, normalised.

    settings = MediaSettings(max_tokens=2560)
    chunks = image_chunks(open_image("photo.jpg"), settings)          # a thumbnail and up to 9 tiles
    chunks, times = video_chunks("clip.mp4", settings, start=5, end=20)

A chunk is one square picture: a tile, a thumbnail or a frame. It becomes ``settings.tokens`` visual tokens.

Shapes: n chunks, T frames, H, W pixels, S the side of a chunk; pixels are RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from plm_core.errors import InputError
from plm_core.lm import tiling, video
from plm_core.lm.tiling import HALF, Picture, check_counts
from plm_core.utils.ranges import check_choice, real
from plm_core.video.clips import Frames, frames_tensor


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """How images and videos become chunks. The defaults are those of the published models.

    Attributes:
        size: Side of a chunk in pixels.
        tokens: Visual tokens of a chunk.
        mode: "thumb+tile" for a thumbnail and tiles of an image; "vanilla" for the thumbnail alone.
        max_tiles: The number of tiles of an image, without the thumbnail.
        max_frames: The number of frames of a video.
        sampling_fps: Frames of a video taken per second, where they are few enough.
        max_tokens: Visual tokens that one image or one video may take. Images are then tiled by
            `plm_core.lm.tiling.budget_grid`, by what they hold; and a video has no more frames than the budget pays
            for. None tiles as the original does.
        path: How the pixels of images are resampled: "pil" as the original does, "tensor" as transformers does.
        frame_path: How frames are resampled: "float", as tensors in floating point, "pil" or "tensor". None for what
            belongs to ``path``: the original takes "float" for frames and "pil" for images.
        mean: Mean of each channel that is subtracted, on the scale from 0 to 1.
        std: Standard deviation of each channel that is divided by.

    Raises:
        InputError: A setting has a value that is not allowed.
    """

    size: int = 448
    tokens: int = 256
    mode: tiling.Mode = "thumb+tile"
    max_tiles: int = 36
    max_frames: int = 32
    sampling_fps: float = 1
    max_tokens: int | None = None
    path: tiling.ImageResampling = "pil"
    frame_path: tiling.Resampling | None = None
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF

    def __post_init__(self) -> None:
        check_counts(size=self.size, tokens=self.tokens, max_tiles=self.max_tiles)
        video.check_sampling(self.max_frames, self.sampling_fps)
        check_choice("mode", self.mode, get_args(tiling.Mode))
        check_choice("path", self.path, get_args(tiling.ImageResampling))
        if self.frame_path is not None:
            check_choice("frame_path", self.frame_path, get_args(tiling.Resampling))
        if self.max_tokens is not None:
            tiling.chunks_within(self.max_tokens, self.tokens)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(map(real, values)) or (name == "std" and min(values) <= 0):
                kind = "three numbers above 0" if name == "std" else "three numbers"
                raise InputError(f"{name} {values!r} is not allowed: {kind} are")

    @property
    def frame_limit(self) -> int:
        """The number of frames of a video, within the budget."""
        if self.max_tokens is None:
            return self.max_frames
        return min(self.max_frames, tiling.chunks_within(self.max_tokens, self.tokens))

    @property
    def frame_resampling(self) -> tiling.Resampling:
        """How frames are resampled."""
        return self.frame_path or ("float" if self.path == "pil" else "tensor")


def image_chunks(image: Picture, settings: MediaSettings) -> Tensor:
    """Return the thumbnail and the tiles of an image, float32 [n, 3, S, S].

    Args:
        image: PIL image of any mode, or pixels, uint8 [H, W, 3].
        settings: How it is cut.

    Raises:
        InputError: It is no image.
    """
    pixels = tiling.cut(image, settings.size, _shape(image, settings), settings.path)
    return tiling.normalise(pixels, settings.mean, settings.std)


def single_chunk(image: Picture, settings: MediaSettings) -> Tensor:
    """Return one image of several, which is a single chunk, float32 [1, 3, S, S].

    Args:
        image: PIL image of any mode, or pixels, uint8 [H, W, 3].
        settings: How it is resized.

    Raises:
        InputError: It is no image.
    """
    return tiling.normalise(tiling.cut(image, settings.size, None, settings.path), settings.mean, settings.std)


def read_video(
    path: str | Path, settings: MediaSettings, start: float | None = None, end: float | None = None
) -> video.VideoFrames:
    """Read the frames of a video that the model is shown, as large as they are in the file.

    Args:
        path: The file.
        settings: How many frames are taken.
        start: Start of the range in seconds; None for the beginning.
        end: End of the range in seconds; None, or a time after the video, for the end.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video, is damaged, or the range lies outside it; the message names the file.
    """
    return video.read_frames(path, settings.frame_limit, settings.sampling_fps, start, end)


def frame_chunks(pixels: Frames, settings: MediaSettings) -> Tensor:
    """Return frames, uint8 [T, H, W, 3], as one chunk each, float32 [T, 3, S, S].

    Raises:
        InputError: They are no frames.
    """
    chunks = [_frame_chunk(frame, settings) for frame in frames_tensor(pixels)]
    return tiling.normalise(torch.stack(chunks), settings.mean, settings.std)


def video_chunks(
    path: str | Path, settings: MediaSettings, start: float | None = None, end: float | None = None
) -> tuple[Tensor, video.TimeMap]:
    """Read a video as chunks, float32 [T, 3, S, S], and the times of its frames.

    Each frame is resized as soon as it is decoded, so frames of full size are never held together.

    Args:
        path: The file.
        settings: How many frames are taken, and how they are resized.
        start: Start of the range in seconds; None for the beginning.
        end: End of the range in seconds; None, or a time after the video, for the end.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video, is damaged, or the range lies outside it; the message names the file.
    """
    resize = partial(_frame_chunk, settings=settings)
    frames = video.read_frames(path, settings.frame_limit, settings.sampling_fps, start, end, resize)
    return tiling.normalise(frames.pixels, settings.mean, settings.std), frames.times


def _shape(image: Picture, settings: MediaSettings) -> tuple[int, int] | None:
    """Return the grid of an image's tiles, or None for the thumbnail alone."""
    if settings.mode == "vanilla":
        return None
    width, height = tiling.size_of(image)
    if settings.max_tokens is None:
        return tiling.grid(width, height, settings.size, settings.max_tiles)[:2]
    budget = (settings.tokens, settings.max_tokens, settings.max_tiles)
    return tiling.budget_grid(width, height, settings.size, *budget)


def _frame_chunk(frame: Tensor, settings: MediaSettings) -> Tensor:
    return tiling.cut(frame, settings.size, None, settings.frame_resampling)[0]
