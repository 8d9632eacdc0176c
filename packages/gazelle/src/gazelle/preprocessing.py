"""Images to inputs of the model, as it was trained: shares of full scale, then normalised, then resized to a square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from plm_core import InputError
from plm_core.utils.images import decode_image, pixels_of
from plm_core.utils.ranges import real, whole

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """A function from an image to float32 [3, height, width], normalised.

    The tensor is resized after the normalisation, bilinearly and with antialiasing, and its aspect ratio is not kept.
    (PIL would round every pixel to 8 bits on the way.) Grey images, palettes and other colour spaces become RGB,
    transparent pixels are laid over white, and more than 8 bits are kept, see `plm_core.utils.images`.

    The image is not turned as its EXIF data say. `plm_core.utils.images.open_image` reads a file upright, as the
    commands do, and ``open_image(path, upright=False)`` as stored, which the annotations of the datasets refer to.

    Attributes:
        size: Height and width of the result in pixels.
        mean: Mean of each channel, in shares of full scale.
        std: Its standard deviation.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __call__(self, image: Any) -> Tensor:
        """Convert an image.

        Args:
            image: A PIL image of any mode, or pixels: a uint8 array [H, W] or [H, W, 1, 3 or 4], or a uint8 tensor
                [1, 3 or 4, H, W].

        Raises:
            InputError: It is neither, or see `plm_core.utils.images.plain`.
        """
        pixels = pixels_of(_picture(image))
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        normalised = pixels.sub(mean).div_(std)
        if normalised.shape[1:] == self.size:
            return normalised
        return F.interpolate(normalised[None], size=self.size, mode="bilinear", antialias=True)[0]


def preprocess(size: int | Sequence[int] = 448, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Preprocess:
    """Return the preprocessing of the model: a function from an image to float32 [3, height, width].

    Args:
        size: Side of the result in pixels, or its (height, width), those of the model.
        mean: Mean of each channel that the backbone was trained with, in shares of full scale.
        std: Its standard deviation.

    Raises:
        InputError: The size, the mean or the deviation is not allowed.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(map(whole, sides)):
        raise InputError(f"size is {size!r}; a whole number of pixels, or (height, width), is expected")
    for name, values in {"mean": mean, "std": std}.items():
        if len(values) != 3 or not all(map(real, values)) or (name == "std" and min(values) <= 0):
            allowed = "three numbers above 0" if name == "std" else "three numbers"
            raise InputError(f"{name} is {values!r}; {allowed}, one for each of red, green and blue, is expected")
    return Preprocess((int(sides[0]), int(sides[1])), tuple(mean), tuple(std))


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        image = image.detach().cpu().movedim(0, -1).numpy() if image.ndim == 3 else image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise InputError(f"image is a {type(image).__name__}; a PIL image or pixels of uint8 are expected")
    if image.dtype != np.uint8 or not _pixels(image.shape):
        form = f"{image.dtype} {list(image.shape)}"
        raise InputError(
            f"image is {form}; uint8 [H, W], [H, W, 1, 3 or 4], or as a tensor [1, 3 or 4, H, W], is expected"
        )
    return decode_image(np.ascontiguousarray(image))


def _pixels(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))
