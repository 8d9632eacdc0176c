"""Images from files, encoded bytes or pixels, with errors that say why, and the number of channels of an image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image, UnidentifiedImageError

from plm_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def open_image(path: str | Path) -> Image.Image:
    """Read an image file of any format that PIL reads.

    Raises:
        InputError: The file cannot be read; the message names it.
    """
    try:
        return _loaded(path)
    except Exception as e:  # PIL's decoders raise almost any error for a file that is truncated or no image
        raise InputError(f"image {str(path)!r} cannot be read: {e}") from e


def decode_image(contents: bytes | NDArray[np.uint8]) -> Image.Image:
    """Return an encoded image or pixels as a PIL image.

    Args:
        contents: The bytes of a file of any format that PIL reads, or pixels, uint8 [H, W] or [H, W, 1, 3 or 4].

    Raises:
        InputError: The bytes are no image, or only a part of one. The message says no more, since bytes have no name.
    """
    if not isinstance(contents, bytes):
        channels = contents.shape[2] if contents.ndim == 3 else 1
        return Image.fromarray(contents.reshape(contents.shape[:2]) if channels == 1 else contents)
    try:
        return _loaded(io.BytesIO(contents))
    except Exception as e:  # as above
        why = "not an image" if isinstance(e, UnidentifiedImageError) else str(e) or type(e).__name__
        raise InputError(why) from e


def _loaded(file: Any) -> Image.Image:
    with Image.open(file) as image:
        image.load()
        return image.copy()


class Channels:
    """A conversion of PIL images to a number of channels: 1 for greyscale, 3 for RGB.

    Raises:
        InputError: A PIL image has no such number of channels.
    """

    MODES: ClassVar[dict[int, str]] = {1: "L", 3: "RGB"}

    def __init__(self, channels: int) -> None:
        if channels not in self.MODES:
            raise InputError(f"the model takes {channels} channels; a PIL image has 1 or 3")
        self.mode = self.MODES[channels]

    def __call__(self, image: Any) -> Any:
        """Convert an image. One of 16 bits is scaled to 8."""
        # convert() would clip 16-bit values at 255 instead of scaling them; PIL reads some 16-bit files as mode I
        if image.mode.startswith("I;16") or (image.mode == "I" and image.getextrema()[1] > 255):
            image = image.point(lambda value: value * (255 / 65535)).convert("L")
        return image.convert(self.mode) if image.mode != self.mode else image

    def __repr__(self) -> str:
        return f"Channels(mode={self.mode!r})"
