"""Image files, read with an error that names the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from plm_core.errors import InputError


def open_image(path: str | Path) -> Image.Image:
    """Read an image of any format that PIL reads.

    Raises:
        InputError: The file cannot be read; the message names it.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except Exception as e:  # PIL's decoders raise almost any error for a file that is truncated or no image
        raise InputError(f"image {str(path)!r} cannot be read: {e}") from e
