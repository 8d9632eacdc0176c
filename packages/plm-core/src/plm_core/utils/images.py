"""Images from files, encoded bytes or pixels, read by one rule everywhere, with errors that say why one cannot be read.

The rule, which predictions, rankings, probes and trainings share:

- An image is turned as its EXIF data say. It is then the picture that a viewer shows.
- Palettes, CMYK and other colour spaces become RGB. One bit becomes greyscale. Colour profiles are not applied.
- Transparent pixels are laid over white.
- More than 8 bits become shares of the full scale, which the type of the file gives and never its pixels: 65535 for
  integers, 4095 for a TIFF file of 12 bits, and 1 for floats. So the brightness of any two images can be compared.
  Pixels beyond the scale are an error.
- The first frame stands for a file of several.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image, UnidentifiedImageError

from plm_core.errors import InputError
from plm_core.utils.text import first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

ORIENTATION = 0x0112
"""The EXIF tag that says how the picture lies in the file."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""
BITS_PER_SAMPLE = 258
"""The TIFF tag with the bits of a pixel."""
TOLERANCE = 0.5 / 255
"""Share of the full scale by which floats may lie beyond it, since resizing overshoots."""


def open_image(path: str | Path, contents: bytes | None = None, *, upright: bool = True) -> Image.Image:
    """Read an image file of any format that PIL reads, as `plain` returns it, and upright.

    Args:
        path: The file.
        contents: Its contents, if they have been read already.
        upright: Whether it is turned as its EXIF data say. Annotations of some datasets refer to the image as stored.

    Raises:
        InputError: The file cannot be read; the message names it.
    """
    try:
        return _read(_bytes(Path(path)) if contents is None else contents, upright)
    except InputError as e:
        raise InputError(f"image {str(path)!r} cannot be read: {e}") from e


def stored_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an image file as stored, before its EXIF data turn it. Only its header is read.

    Raises:
        InputError: The header cannot be read. The message says why, without a name.
    """
    with _opened(path) as image:
        return image.size


def picture_format(out: Path) -> str:
    """Return the format in which a command writes a picture, by the ending of its option ``--out``.

    Raises:
        InputError: The ending is none that pictures can be written in.
    """
    name = Image.registered_extensions().get(out.suffix.lower())
    if name not in Image.SAVE:
        raise InputError(f"--out {str(out)!r} does not end in a picture format such as .png")
    return str(name)


def check_overwrites(out: Path, images: Iterable[Path]) -> None:
    """Check that the picture of a command's option ``--out`` does not take the place of an image that it reads.

    Raises:
        InputError: It would.
    """
    if out.exists():  # otherwise it can be none of them, and there may be very many
        place = out.resolve()
        if any(image.resolve() == place for image in images):
            raise InputError(f"--out {str(out)!r} would overwrite an image that is read; name another file")


def decode_image(contents: bytes | NDArray[np.uint8]) -> Image.Image:
    """Return an encoded image or pixels as `plain` returns it, and upright.

    Args:
        contents: The bytes of a file of any format that PIL reads, or pixels, uint8 [H, W] or [H, W, 1, 3 or 4].

    Raises:
        InputError: The bytes are no image, or only a part of one. The message says no more, since bytes have no name.
    """
    if not isinstance(contents, bytes):
        channels = contents.shape[2] if contents.ndim == 3 else 1
        return plain(Image.fromarray(contents.reshape(contents.shape[:2]) if channels == 1 else contents))
    return _read(contents)


def check_image(item: Path | bytes | NDArray[np.uint8], decode: bool = True) -> None:
    """Check that an image can be read, faster than by reading it.

    Args:
        item: The path, the encoded bytes, or the pixels of the image.
        decode: Whether to decode the whole of it (JPEG at an eighth of its size), instead of the header only.

    Raises:
        InputError: It cannot be read. The message says why, without a name.
    """
    if isinstance(item, (Path, bytes)):
        with _opened(_bytes(item) if isinstance(item, Path) and decode else item) as image:
            if decode:
                image.draft(None, (1, 1))
                image.load()
                plain(image)


def plain(image: Image.Image) -> Image.Image:
    """Return an image as L, RGB, or, if it has more than 8 bits, as F from 0 to 1. It is not turned.

    Raises:
        InputError: Pixels lie beyond the full scale, or the colour space is not known.
    """
    if image.mode[0] in "IF":
        return _shares(image)
    try:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        if image.mode in ("L", "RGB"):
            return image
        return image.convert("L" if image.mode == "1" else "RGB")
    except ValueError as e:
        raise InputError(f"{image.mode} pixels: {first_line(e)}") from e


def pixels_of(image: Image.Image) -> Tensor:
    """Return an image of any mode as a detector takes it: RGB, float32 [3, H, W] from 0 to 1.

    Raises:
        InputError: See `plain`.
    """
    converted = Channels(3, deep=True)(image)
    return _tensor(converted) / 255 if isinstance(converted, Image.Image) else converted


def _tensor(image: Image.Image) -> Tensor:
    """Return an image of any mode as float32 [C, H, W] with the values that it has."""
    import numpy as np
    import torch  # here, since reading images needs none of it

    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _shares(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits as shares of its full scale, F from 0 to 1."""
    import numpy as np

    pixels = np.asarray(image)
    scale, kind, slack = 65535, "integers from 0 to 65535", 0.0
    if image.mode == "F":
        scale, kind, slack = 1, "floats from 0 to 1", TOLERANCE
    elif (bits := getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]) < 16:
        scale, kind = 2**bits - 1, f"integers of {bits} bits"
    low, high = pixels.min(), pixels.max()
    if not (low >= -slack and high <= scale * (1 + slack)):  # also where one is not a number
        raise InputError(f"its pixels lie between {low:g} and {high:g}; {kind} are allowed")
    return Image.fromarray((pixels / np.float32(scale)).clip(0, 1).astype(np.float32))


def _bytes(path: Path) -> bytes:
    """Return the contents of a file. PIL reads damaged files in another way by their path than by their bytes."""
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(e.strerror or first_line(e)) from e


def _read(contents: bytes, upright: bool = True) -> Image.Image:
    with _opened(contents) as image:
        image.load()
        turn = TURNS.get(_orientation(image)) if upright else None
        picture = plain(image)
        picture = picture.copy() if turn is None else picture.transpose(turn)
    picture.info = {}  # with the orientation, which would turn it again
    return picture


@contextmanager
def _opened(file: Path | bytes) -> Iterator[Image.Image]:
    """Open an image, and say why if it cannot be read."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as e:
        raise InputError("not an image") from e
    except Exception as e:  # PIL's decoders raise almost any error for a file that is truncated or no image
        raise InputError(getattr(e, "strerror", None) or first_line(e)) from e


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a picture is not lost for damaged notes about it
        return None


class Channels:
    """A conversion of PIL images to a number of channels: 1 for greyscale, 3 for RGB.

    Args:
        channels: The number of channels.
        deep: Whether an image of more than 8 bits becomes a tensor, float32 [channels, H, W] from 0 to 1, which keeps
            its levels. Otherwise it is rounded to 8 bits, as augmentations need it.

    Raises:
        InputError: A PIL image has no such number of channels. On a call: see `plain`.
    """

    MODES: ClassVar[dict[int, str]] = {1: "L", 3: "RGB"}

    def __init__(self, channels: int, deep: bool = False) -> None:
        if channels not in self.MODES:
            raise InputError(f"the model takes {channels} channels; a PIL image has 1 or 3")
        self.mode = self.MODES[channels]
        self.deep = deep

    def __call__(self, image: Any) -> Any:
        """Convert an image of any mode."""
        image = plain(image)
        if image.mode == "F":
            if self.deep:
                return _tensor(image).expand(len(self.mode), -1, -1)
            image = image.point(lambda value: value * 255 + 0.5).convert("L")
        return image.convert(self.mode) if image.mode != self.mode else image

    def __repr__(self) -> str:
        return f"Channels(mode={self.mode!r}, deep={self.deep})"
