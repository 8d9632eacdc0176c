"""The predictions for one file, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plm_core.prediction.masks import Mask


@dataclass(frozen=True)
class ClassScore:
    """A class with its probability.

    Attributes:
        number: Number of the class, from 0.
        label: Its name.
        probability: From 0 to 1.
    """

    number: int
    label: str
    probability: float


@dataclass(frozen=True)
class ImageClasses:
    """The most probable classes of an image, best first."""

    path: Path
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class Detection:
    """An object in an image.

    Attributes:
        number: Number of its class, from 1, as detectors count. 0 would be the background.
        label: Name of the class.
        score: From 0 to 1.
        box: Left, top, right and bottom edge, in pixels of the image.
        mask: Its pixels, if the model predicts masks.
    """

    number: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: Mask | None = None


@dataclass(frozen=True)
class ImageDetections:
    """The objects of an image, best first.

    Attributes:
        path: The file.
        width: Width in pixels of the image as it is shown, turned as its EXIF data say.
        height: Height in pixels.
        detections: The objects.
    """

    path: Path
    width: int
    height: int
    detections: tuple[Detection, ...]


@dataclass(frozen=True)
class Window:
    """The most probable classes of a part of a video, best first. Its times are in seconds from the first frame."""

    start: float
    end: float
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True, eq=False)
class VideoClasses:
    """The classes of a video over time.

    Attributes:
        path: The file.
        windows: The windows in their order. The last one may overlap the one before it.
        classes: The most probable classes of the whole video, best first: the mean over the windows.
        probabilities: All probabilities, float32 [windows, num_classes].
        labels: The names of all classes.
    """

    path: Path
    windows: tuple[Window, ...]
    classes: tuple[ClassScore, ...]
    probabilities: NDArray[np.float32]
    labels: tuple[str, ...]


Result = ImageClasses | ImageDetections | VideoClasses
