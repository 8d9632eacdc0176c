"""The classes of a video over time, in consecutive windows of the model's length."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plm_core import models, video
from plm_core.errors import NotSupported
from plm_core.hookspecs import Input
from plm_core.prediction.classification import best, probabilities
from plm_core.prediction.labels import Labels
from plm_core.prediction.results import VideoClasses, Window
from plm_core.prediction.tasks import config_of, name_of
from plm_core.video.windows import read_windows, window_starts


@dataclass(frozen=True)
class ClipClassifier:
    """A video model with all that it needs to classify files.

    Attributes:
        model: The model, in eval mode.
        spec: Its input, with the step from one frame of a window to the next.
        labels: Names of the classes.
        top: Number of classes of each window.
        batch_size: Windows per forward pass.
        context: Context in which the model runs.
    """

    model: nn.Module
    spec: Input
    labels: Labels
    top: int
    batch_size: int
    context: AbstractContextManager[Any]

    def classify(self, path: Path, advance: Callable[[float], None]) -> VideoClasses:
        """Classify a video.

        Args:
            path: The file.
            advance: Function that is called with the share of the video that was classified since its last call.

        Raises:
            MissingDependency: PyAV is not installed.
            InputError: The file cannot be read.
        """
        clip, frames = video.Video(path), self.spec.frames or 1
        starts = window_starts(len(clip), frames, self.spec.stride)
        weight = next(self.model.parameters())
        rows = []
        for i in range(0, len(starts), self.batch_size):
            batch = starts[i : i + self.batch_size]
            x = read_windows(clip, batch, self.spec)
            with torch.inference_mode(), self.context:
                rows.append(probabilities(self.model, x.to(weight)))
            advance(len(batch) / len(starts))
        table = torch.cat(rows)
        windows = [
            Window(
                clip.seconds(start),
                clip.seconds(min(start + frames * self.spec.stride, len(clip))),
                best(row, self.labels, self.top),
            )
            for start, row in zip(starts, table, strict=True)
        ]
        names = tuple(self.labels(number) for number in range(table.shape[1]))
        return VideoClasses(path, tuple(windows), best(table.mean(0), self.labels, self.top), table.numpy(), names)


def clip_input(model: nn.Module, stride: int | None) -> Input:
    """Return the input of a video model as it was created.

    Args:
        model: The model.
        stride: Step from one frame to the next. None for the one that the model's declaration states, or else 1.

    Raises:
        NotSupported: The model does not say how many frames it takes, or takes no RGB.
    """
    declared = models.input_of(model) if config_of(model) else Input()
    spec = video.input_of(model) if len(getattr(model, "input_size", ())) == 3 else declared
    if spec.frames is None:
        raise NotSupported(
            f"model {name_of(model)!r} does not say how many frames a clip has, so videos cannot be cut into clips for "
            "it; plm_core.transform_for(model) prepares a clip"
        )
    if spec.size[0] != 3:
        raise NotSupported(f"model {name_of(model)!r} takes {spec.size[0]} channels; clips are RGB")
    return replace(spec, stride=declared.stride if stride is None else stride)
