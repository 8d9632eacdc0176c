"""Images cut into tiles, the square pictures that a vision tower sees.

Two rules choose the grid of tiles. `grid` is the original's, which enlarges small images to large grids: it spends 37
chunks on a picture of one pixel. `budget_grid` spends as many tokens as the image holds pixels for, within a budget.

Shapes: n chunks, H, W pixels, S the side of a tile; pixels are RGB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plm_core.errors import InputError
from plm_core.utils.images import Channels
from plm_core.utils.ranges import check_choice

Mode = Literal["thumb+tile", "vanilla"]
ImageResampling = Literal["pil", "tensor"]
Resampling = Literal["pil", "tensor", "float"]
Picture = Image.Image | Tensor | NDArray[np.uint8]

HALF = (0.5, 0.5, 0.5)
"""The mean and the standard deviation that the published models normalise with."""


# --- the original's rule ----------------------------------------------------------------------------------------


def grid(width: int, height: int, tile: int, max_num_tiles: int) -> tuple[int, int, bool]:
    """Choose the grid of tiles as the original does.

    Of the grids that hold the whole image, it takes the one in which the image, enlarged with its aspect ratio, has the
    longest short side. The later of two equally good candidates wins, so their order is part of the rule. If no grid
    holds the image, the one with the closest aspect ratio that is not longer than the image's is taken, as large as
    possible.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        tile: Side of a tile in pixels.
        max_num_tiles: The number of tiles allowed, without the thumbnail.

    Returns:
        Columns, rows, and whether the grid holds the image without shrinking it.
    """
    check_counts(width=width, height=height, tile=tile, max_num_tiles=max_num_tiles)
    groups = _candidates(max_num_tiles)
    aspect = width / height
    best: tuple[int, int] | None = None
    longest = 0.0
    for columns, rows in (shape for group in groups.values() for shape in group):
        if columns * tile >= width and rows * tile >= height:
            short = _short_side(width, height, columns * tile, rows * tile)
            if short >= longest:
                best, longest = (columns, rows), short
    if best is not None:
        return *best, True
    if aspect >= 1:
        return *max(groups[max(ratio for ratio in groups if ratio <= aspect)]), False
    return *max(groups[min(ratio for ratio in groups if ratio > aspect)]), False


@cache
def _candidates(max_num_tiles: int) -> dict[float, list[tuple[int, int]]]:
    """Return the grids of up to so many tiles by aspect ratio, in the original's order: the largest first."""
    groups: dict[float, list[tuple[int, int]]] = {}
    for number in range(max_num_tiles, 0, -1):
        for columns in range(1, number + 1):
            if number % columns == 0:
                rows = number // columns
                groups.setdefault(columns / rows, []).append((columns, rows))
    return groups


def _short_side(width: int, height: int, canvas_width: int, canvas_height: int) -> float:
    """Return the short side of an image that is scaled into a canvas, rounded as the original rounds it."""
    scale = min(canvas_width / width, canvas_height / height)
    aspect = width / height
    return math.floor(scale * width / aspect) if aspect > 1 else math.floor(scale * height * aspect)


# --- the rule with a budget -------------------------------------------------------------------------------------


def budget_grid(
    width: int, height: int, tile: int, tokens: int, max_tokens: int, max_num_tiles: int = 36
) -> tuple[int, int] | None:
    """Choose the grid of tiles that keeps most of an image's detail within a budget of tokens.

    Let a grid of c columns and r rows keep the share ``min(c * tile / width, r * tile / height, 1)`` of the resolution:
    the scale at which the image, with its aspect ratio, fits into the canvas, and never more than the image holds. So
    both axes count, and a grid that squeezes one of them gains nothing. The rule takes the grid that keeps the largest
    share, and of several that keep the same share the one of fewest tiles, whose aspect ratio is also the closest to
    the image's. So the last column and the last row always begin inside the image. Allowed are grids of at most
    ``max_num_tiles`` tiles which fit into the budget with the thumbnail, ``(c * r + 1) * tokens <= max_tokens``.

    A grid of one tile would repeat the thumbnail, so it is never used: the thumbnail stands alone for an image that is
    no larger than a tile, and where the budget allows no grid that shows more than it.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        tile: Side of a tile in pixels.
        tokens: Visual tokens of a chunk.
        max_tokens: Visual tokens that the image may take, thumbnail included.
        max_num_tiles: The number of tiles allowed, without the thumbnail.

    Returns:
        Columns and rows, or None for the thumbnail alone.

    Raises:
        InputError: The budget is below one chunk.
    """
    check_counts(width=width, height=height, tile=tile, max_num_tiles=max_num_tiles)
    limit = min(max_num_tiles, chunks_within(max_tokens, tokens) - 1)
    best, share = None, _share(width, height, tile, 1, 1)
    for columns in range(1, limit + 1):
        for rows in range(1, limit // columns + 1):
            kept = _share(width, height, tile, columns, rows)
            if kept > share:  # of equals the first has the fewest columns and the fewest rows
                best, share = (columns, rows), kept
    return best


def chunks_within(max_tokens: int, tokens: int) -> int:
    """Return the number of chunks that a budget pays for, at least one.

    Raises:
        InputError: The budget is below one chunk.
    """
    check_counts(tokens=tokens, max_tokens=max_tokens)
    if max_tokens < tokens:
        raise InputError(
            f"max_tokens {max_tokens} is not allowed: one chunk takes {tokens} tokens, so {tokens} or more"
        )
    return max_tokens // tokens


def _share(width: int, height: int, tile: int, columns: int, rows: int) -> int:
    """Return the share of the resolution that a grid keeps, times width * height, which makes it a whole number."""
    return min(columns * tile * height, rows * tile * width, width * height)


# --- pixels -----------------------------------------------------------------------------------------------------


def tiles(
    image: Picture,
    tile: int,
    max_num_tiles: int,
    mode: Mode = "thumb+tile",
    path: ImageResampling = "pil",
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
) -> Tensor:
    """Cut an image into chunks as the original does.

    Args:
        image: PIL image of any mode, or pixels, uint8 [H, W, 3].
        tile: Side of a tile in pixels.
        max_num_tiles: The number of tiles allowed, without the thumbnail.
        mode: "thumb+tile" for a thumbnail and tiles; "vanilla" for the thumbnail alone.
        path: How pixels are resampled: "pil" as the original does, "tensor" as transformers does.
        mean: Mean of each channel that is subtracted, on the scale from 0 to 1.
        std: Standard deviation of each channel that is divided by.

    Returns:
        The thumbnail and the tiles, row by row, normalised, float32 [n, 3, S, S].

    Raises:
        InputError: An argument has a value that is not allowed.
    """
    check_choice("mode", mode, get_args(Mode))
    width, height = size_of(image)
    shape = grid(width, height, tile, max_num_tiles)[:2] if mode == "thumb+tile" else None
    return normalise(cut(image, tile, shape, path), mean, std)


def cut(image: Picture, tile: int, shape: tuple[int, int] | None, path: Resampling) -> Tensor:
    """Return the thumbnail of an image and its tiles in a grid, uint8 [n, 3, S, S].

    The image is stretched to the tile, and to the whole canvas: its aspect ratio is not kept.

    Args:
        image: PIL image of any mode, or pixels, uint8 [H, W, 3].
        tile: Side of a tile in pixels.
        shape: Columns and rows, or None for the thumbnail alone.
        path: How pixels are resampled.
    """
    check_counts(tile=tile)
    check_choice("path", path, get_args(Resampling))
    size_of(image)  # checks it
    source = _rgb_image(image) if path == "pil" else _rgb_tensor(image)
    thumbnail = _resized(source, tile, tile, path)[None]
    if shape is None:
        return thumbnail
    columns, rows = shape
    canvas = _resized(source, columns * tile, rows * tile, path)
    pieces = canvas.reshape(3, rows, tile, columns, tile).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.cat([thumbnail, pieces])


def normalise(chunks: Tensor, mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> Tensor:
    """Return chunks, uint8 [n, 3, S, S], as the tower takes them, float32."""
    centre, spread = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return chunks.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(centre).div_(spread)


def size_of(image: Picture) -> tuple[int, int]:
    """Return the width and height of an image.

    Raises:
        InputError: It is no image, or has no pixels.
    """
    if isinstance(image, Image.Image):
        width, height = image.size
    elif isinstance(image, (Tensor, np.ndarray)):
        kind, shape = str(image.dtype).removeprefix("torch."), list(image.shape)
        if kind != "uint8" or len(shape) != 3 or shape[2] != 3:
            raise InputError(f"image is {kind} {shape}; uint8 [height, width, 3] or a PIL image is expected")
        height, width = shape[:2]
    else:
        raise InputError(f"image is {type(image).__name__}; a PIL image or uint8 [height, width, 3] is expected")
    if not width or not height:
        raise InputError(f"image has {width} x {height} pixels; at least one is expected")
    return width, height


def _rgb_image(image: Picture) -> Image.Image:
    """Return an image as PIL's RGB, by the rule of `plm_core.utils.images`."""
    if isinstance(image, Image.Image):
        converted: Image.Image = Channels(3)(image)
        return converted
    return Image.fromarray(np.ascontiguousarray(image.cpu().numpy() if isinstance(image, Tensor) else image))


def _rgb_tensor(image: Picture) -> Tensor:
    """Return an image as uint8 [3, H, W]."""
    pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(_rgb_image(image)))
    return pixels.permute(2, 0, 1)  # torch resamples pixels with the channels last twice as fast


def _resized(source: Image.Image | Tensor, width: int, height: int, path: Resampling) -> Tensor:
    """Stretch an image with bicubic resampling and return it as uint8 [3, height, width]."""
    if isinstance(source, Image.Image):
        return torch.from_numpy(np.array(_resized_by_pil(source, width, height))).permute(2, 0, 1)
    pixels = source[None].float() if path == "float" else source[None]
    out = F.interpolate(pixels, size=(height, width), mode="bicubic", align_corners=False, antialias=True)[0]
    return out.clamp_(0, 255).round_().to(torch.uint8) if path == "float" else out


def _resized_by_pil(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resample the two axes one after the other, in the order that Pillow 13 takes them in.

    Each pass rounds to 8 bits, so the order shows: by up to 4 levels in a small image. Pillow before 13 resamples
    nearly every image along its rows first. With the order stated here, the chunks of an image do not depend on the
    version.
    """
    shrinks_more_in_height = image.height > height and image.height - height > 2 * (image.width - width)
    first = (image.width, height) if shrinks_more_in_height else (width, image.height)
    return image.resize(first, Image.Resampling.BICUBIC).resize((width, height), Image.Resampling.BICUBIC)


# --- arguments --------------------------------------------------------------------------------------------------


def check_counts(**values: Any) -> None:
    """Check that arguments are whole numbers from 1.

    Raises:
        InputError: One is not; the message names it.
    """
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")
