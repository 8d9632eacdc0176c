"""Prediction over several clips and crops of a video, as in the evaluation of the Hiera paper (section 4.2).

Shapes: T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import InputError
from plm_core.hookspecs import VIDEO_MEAN, VIDEO_STD, Input
from plm_core.video.clips import STRIDE, Frames, Pad, check_sampling, clip_frames, frames_tensor, last_start
from plm_core.video.file import Video
from plm_core.video.pixels import cover, crop, normalise


def input_of(model: nn.Module) -> Input:
    """Return the input of a video model: size, number of frames, mean and std.

    Mean, std and crop_pct are those of the model's ``pretrained_cfg``. A model without one, such as a Hiera built by
    its class, is taken to have the mean of .45 and std of .225 that are common for video.

    Args:
        model: A model whose attribute ``input_size`` is (frames, height, width).

    Raises:
        InputError: The model does not take clips.
    """
    size: tuple[int, ...] = tuple(getattr(model, "input_size", ()))
    if len(size) != 3:
        raise InputError(f"model {type(model).__name__} has input_size {size}; (frames, height, width) is expected")
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return Input(
        size=(getattr(model, "in_chans", 3), *size[1:]),
        frames=size[0],
        mean=tuple(cfg.get("mean", VIDEO_MEAN)),
        std=tuple(cfg.get("std", VIDEO_STD)),
        crop_pct=cfg.get("crop_pct") or 0.875,
    )


def views(
    video: str | Path | Frames,
    model: nn.Module | Input,
    clips: int = 5,
    crops: int = 3,
    stride: int = STRIDE,
    pad: Pad = None,
) -> Tensor:
    """Return the views over which predictions are averaged (Hiera's Kinetics evaluation: 5 clips x 3 crops).

    Clips are spread evenly from the first frame to the last. The short side of the frames is resized to the model's
    input, and crops are spread evenly along the long side. A single crop is the centre of frames that are larger by
    ``1 / crop_pct``. These rules are common practice; the paper states only the numbers of clips and crops.

    Args:
        video: A file, or all frames of a video, uint8 [N, H, W, 3].
        model: A video model, or its input.
        clips: Number of positions in time.
        crops: Number of positions in space.
        stride: Step from one frame to the next: 4 takes every fourth.
        pad: "last" or None; see `read_clip`.

    Returns:
        Normalised views, float32 [clips * crops, 3, T, H, W]; the crops of a clip follow one another.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The video cannot be read (see `read_clip`), or an argument is out of range.
    """
    spec = model if isinstance(model, Input) else input_of(model)
    if spec.frames is None or spec.size[0] != 3:
        raise InputError(
            f"model takes inputs of {spec.size} and {spec.frames} frames; 3 channels and a number of frames are needed"
        )
    check_sampling(spec.frames, stride)
    for name, value in {"clips": clips, "crops": crops}.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")
    zoom = 1.0 if crops > 1 else 1 / spec.crop_pct
    fit = partial(cover, size=spec.size[1:], zoom=zoom)
    if isinstance(video, str | Path):
        file = Video(video)
        resized = file.read(_views_frames(len(file), spec.frames, clips, stride, pad, file.name), fit)
    else:
        pictures = frames_tensor(video)
        numbers = _views_frames(len(pictures), spec.frames, clips, stride, pad, "the video")
        resized = torch.stack([fit(pictures[i]) for i in numbers])
    cropped = torch.stack([crop(resized, spec.size[1:], _share(i, crops)) for i in range(crops)])
    return normalise(cropped.unflatten(1, (clips, spec.frames)).transpose(0, 1).flatten(0, 1), spec)


def _views_frames(length: int, frames: int, clips: int, stride: int, pad: Pad, name: Any) -> list[int]:
    latest = last_start(length, frames, stride)
    starts = [round(latest * _share(i, clips)) for i in range(clips)]
    return [p for start in starts for p in clip_frames(length, frames, stride, start, pad, name)]


def _share(i: int, count: int) -> float:
    """Return the i-th of ``count`` evenly spaced points from 0 to 1; a single point lies in the middle."""
    return i / (count - 1) if count > 1 else 0.5


@torch.inference_mode()
def classify(
    model: nn.Module,
    video: str | Path | Frames,
    clips: int = 5,
    crops: int = 3,
    stride: int = STRIDE,
    pad: Pad = None,
) -> Tensor:
    """Predict the class probabilities of a video, averaged over its `views`, which run one at a time.

    Args:
        model: A video classifier in eval mode, on any device.
        video: A file, or all its frames, uint8 [N, H, W, 3].
        clips: Number of positions in time.
        crops: Number of positions in space.
        stride: Step from one frame to the next: 4 takes every fourth.
        pad: "last" or None; see `read_clip`.

    Returns:
        Probabilities, float32 [classes], on the CPU.

    Raises:
        InputError: The views cannot be made (see `views`), or the model is in training mode or has no classes.
    """
    if model.training:
        raise InputError("model is in training mode: call model.eval() first")
    if not getattr(model, "num_classes", 1):
        raise InputError(f"model {type(model).__name__} has no classes")
    weight = next(model.parameters())
    outputs = [
        model(view.to(weight.device, weight.dtype)).float()
        for view in views(video, model, clips, crops, stride, pad).split(1)
    ]
    if not getattr(model, "probabilities", False):
        outputs = [output.softmax(-1) for output in outputs]
    return torch.cat(outputs).mean(0).cpu()
