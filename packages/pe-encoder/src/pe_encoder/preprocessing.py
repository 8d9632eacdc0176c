"""Images to inputs of the towers, as the original does it (facts: resize, then RGB, then values from -1 to 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pe_encoder.arguments import check_arguments
from plm_core import InputError
from plm_core.utils.images import plain
from plm_core.utils.ranges import check_choice

MODES = ("squash", "center")


@dataclass(frozen=True)
class Preprocess:
    """A function from a PIL image to float32 [3, size, size] with values from -1 to 1.

    The image is resized in its own mode, with PIL's bilinear filter, and then converted to RGB: so a palette is resized
    by the nearest pixel, and an alpha channel is dropped after it has weighted the colours. Images of more than 8 bits,
    which PIL cannot convert so, become shares of their full scale first, see `plm_core.utils.images.plain`. An EXIF
    orientation is not applied. `plm_core.utils.images.open_image`, with which the commands read files, turns an image
    upright and lays transparent pixels over white before this function sees it.

    Attributes:
        size: Height and width of the result in pixels.
        mode: ``squash`` resizes to a square, whatever the aspect. ``center`` resizes the shorter side and cuts the
            middle out.
    """

    size: int
    mode: str = "squash"

    def __post_init__(self) -> None:
        check_arguments({"image_size": self.size})
        if not isinstance(self.size, int):
            raise InputError(f"size is {self.size!r}; a whole number of pixels is expected")
        check_choice("mode", self.mode, MODES)

    def __call__(self, image: Any) -> Tensor:
        """Convert an image.

        Raises:
            InputError: It is no PIL image, or see `plm_core.utils.images.plain`.
        """
        if not isinstance(image, Image.Image):
            raise InputError(f"image is a {type(image).__name__}; a PIL image is expected")
        if image.mode[0] in "IF":
            image = plain(image)
        if self.mode == "squash":
            resized = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        else:
            resized = self._centre(image)
        if resized.mode == "F":  # shares of the full scale, which 8 bits would round
            shares = torch.from_numpy(np.array(resized)).repeat(3, 1, 1)
        else:
            shares = torch.from_numpy(np.array(resized.convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 255
        return shares.contiguous().sub_(0.5).div_(0.5)

    def _centre(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        short = min(width, height)
        width, height = int(self.size * width / short), int(self.size * height / short)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + self.size, top + self.size))


def preprocess(size: int, mode: str = "squash") -> Preprocess:
    """Return the preprocessing of the original: a function from a PIL image to float32 [3, size, size].

    Args:
        size: Height and width of the result in pixels, those of the model.
        mode: ``squash`` or ``center``. The paper's numbers are the better of the two for each dataset; the original's
            scripts use ``squash``.

    Raises:
        InputError: An argument is not allowed.
    """
    return Preprocess(size, mode)
