"""The views that a model gets of an image or a video, by the model and by the kind of the dataset.

- An image model gets an image as it is. Of a video it gets frames that are spread evenly over it.
- A video model gets the clip from the middle of a video, of as many frames as it takes.

Features and probabilities are averaged over the views. Shapes: V views, T frames, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from parc.ranking.probes import Probe
from plm_core.errors import NotSupported
from plm_core.models import transform_for
from plm_core.prediction.clips import clip_input
from plm_core.prediction.tasks import modality_of, name_of
from plm_core.sources import transformers
from plm_core.video import per_clip
from plm_core.video.clips import STRIDE, clip_frames, last_start

FRAMES = 4
"""Number of frames of a video that an image model sees."""

# The repr of the classes below is a part of the cache's key. The preprocessing is a part of its own.


@dataclass(frozen=True)
class Still:
    """The view of an image: [1, C, H, W]."""

    preprocess: Callable[[Any], Tensor] = field(repr=False)
    count: int = 1

    def __call__(self, probe: Probe, index: int) -> Tensor:
        """Return the views of an item of a probe, preprocessed."""
        return self.preprocess(probe.image(index))[None]


@dataclass(frozen=True)
class SpreadFrames:
    """The views of a video for an image model: the frames in the middle of equal parts of it, [V, C, H, W]."""

    preprocess: Callable[[Any], Tensor] = field(repr=False)
    count: int = FRAMES

    def __call__(self, probe: Probe, index: int) -> Tensor:
        """Return the views of an item of a probe, preprocessed."""
        video = probe.video(index)
        numbers = [(2 * part + 1) * len(video) // (2 * self.count) for part in range(self.count)]
        return video.read(numbers, lambda frame: self.preprocess(Image.fromarray(frame.numpy())))


@dataclass(frozen=True)
class MiddleClip:
    """The view of a video for a video model: the clip from its middle, [1, C, T, H, W].

    A model of transformers has the frames first, [1, T, C, H, W]. The last frame of a video that is too short is
    repeated.
    """

    preprocess: Callable[[Any], Tensor] = field(repr=False)
    frames: int
    stride: int
    count: int = 1

    def __call__(self, probe: Probe, index: int) -> Tensor:
        """Return the views of an item of a probe, preprocessed."""
        video = probe.video(index)
        start = last_start(len(video), self.frames, self.stride) // 2
        numbers = clip_frames(len(video), self.frames, self.stride, start, "last", video.name)
        return self.preprocess(video.read(numbers))[None]


Views = Still | SpreadFrames | MiddleClip


def views_for(model: Any, kind: str) -> Views:
    """Return the views that a model gets of the items of a dataset.

    Args:
        model: The model.
        kind: The kind of the items: ``images`` or ``videos``.

    Raises:
        NotSupported: The model takes neither the items nor frames of them, or the length of its clips is not known.
        InputError, WeightsError: The preprocessing of the model cannot be had, see `plm_core.transform_for`.
    """
    takes = modality_of(model)
    if takes == "image":
        preprocess = transform_for(model)
        return SpreadFrames(preprocess) if kind == "videos" else Still(preprocess)
    if takes == "video" and kind == "videos":
        return _middle_clip(model)
    words = "sounds" if takes == "audio" else _clips_in_words(model)
    raise NotSupported(f"the model takes {words}; the dataset holds {kind}")


def _frames_of(model: Any) -> int | None:
    """Return the number of frames of the clips that a video model takes, or None if the model does not say it."""
    if transformers.is_of_transformers(model):
        return getattr(model.config, "num_frames", None)
    return None if hasattr(model, "plm_origin") else clip_input(model, None).frames


def _clips_in_words(model: Any) -> str:
    frames = _frames_of(model)
    return "clips" if frames is None else f"clips of {frames} frames"


def _middle_clip(model: Any) -> MiddleClip:
    frames = _frames_of(model)
    if frames is None:
        raise NotSupported(f"model {name_of(model)!r} takes clips, but does not say of how many frames")
    if not transformers.is_of_transformers(model):
        return MiddleClip(per_clip(transform_for(model)), frames, clip_input(model, None).stride)
    if transformers.modality(model) != "video":
        raise NotSupported(f"model {name_of(model)!r} takes clips, but transformers preprocesses only images for it")
    return MiddleClip(transform_for(model), frames, STRIDE)
