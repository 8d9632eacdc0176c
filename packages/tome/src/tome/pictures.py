"""Pictures of the patches that became one token, in the style of the ToMe paper.

A group of patches is filled with the mean colour of its pixels, and its border has a colour of its own. Shapes: F
frames of H x W pixels, N tokens, the special ones first.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from plm_core.blocks import original_class
from plm_core.errors import InputError, PlmError
from plm_core.models import transform_for
from plm_core.utils.images import Channels
from plm_core.utils.pictures import scale_of
from plm_core.utils.text import first_line
from tome.vit.tracing import Trace, trace

Picture = Image.Image | NDArray[Any]
"""A PIL image, or an array [H, W], [H, W, 1] or [H, W, 3]: integers from 0 to 255 or floats from 0 to 1."""


def paint(
    image: Picture,
    group: Tensor | Sequence[int] | NDArray[Any],
    patch: int | tuple[int, int] = 16,
    prefix: int = 0,
    *,
    border: int = 1,
    scale: int = 1,
    colours: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """Paint the groups of patches that became one token on their image.

    Args:
        image: The input of the model as an image. H and W are multiples of the patch size.
        group: [N] integers: the token that each of the original tokens is part of, as in `tome.vit.Trace.groups`.
        patch: Side of a patch in pixels, or (height, width).
        prefix: Number of special tokens, which are first and are not painted.
        border: Width in pixels of the borders, which are drawn inside each group and at the edge of the image; 0 for
            none.
        scale: Factor by which to enlarge the image first. Borders keep their width.
        colours: [n, 3] uint8, the border colour of each token. None takes the `palette` colour of the first patch in
            each group, so a group that grows from block to block keeps its colour.

    Returns:
        An image of H * scale x W * scale pixels.

    Raises:
        InputError: The sizes do not match.
    """
    return paint_clip([image], group, patch, prefix, border=border, scale=scale, colours=colours)[0]


def paint_clip(
    frames: Sequence[Picture] | NDArray[Any],
    group: Tensor | Sequence[int] | NDArray[Any],
    patch: int | tuple[int, int] = 16,
    prefix: int = 0,
    *,
    border: int = 1,
    scale: int = 1,
    colours: NDArray[np.uint8] | None = None,
) -> list[Image.Image]:
    """Paint the groups of space-time patches on the frames of a video. A group looks the same in every frame.

    Args:
        frames: F frames of one size.
        group: [N] integers as for `paint`, where N = prefix + T * h * w in this order. Each of the T time steps is
            painted on F / T successive frames.
        patch: Side of a patch in pixels, or (height, width).
        prefix: Number of special tokens.
        border: Width in pixels of the borders, which are drawn in space only.
        scale: Factor by which to enlarge the frames first.
        colours: The border colour of each token, as for `paint`.

    Returns:
        One image for each frame; `contact_sheet` shows them side by side.

    Raises:
        InputError: The sizes do not match.
    """
    _check_counts({"scale": scale}, 1)
    _check_counts({"border": border, "prefix": prefix}, 0)
    sides = patch if isinstance(patch, tuple | list) and len(patch) == 2 else (patch, patch)
    _check_counts({"height of patch": sides[0], "width of patch": sides[1]}, 1)
    pixels = _pixels(frames).repeat(scale, 1).repeat(scale, 2)
    height, width = sides
    tokens = _tokens(group)
    labels = _by_pixel(tokens, pixels.shape[:3], (height * scale, width * scale), prefix)
    present, first = np.unique(tokens[prefix:], return_index=True)
    if colours is None:
        colours = np.zeros((present[-1] + 1, 3), np.uint8)
        colours[present] = palette(len(tokens))[first]
    elif len(colours) <= present[-1]:
        raise InputError(f"colours has {len(colours)} entries; there is a token {present[-1]}")
    means = np.zeros((present[-1] + 1, 3))
    counts = np.bincount(labels.ravel())
    for channel in range(3):
        sums = np.bincount(labels.ravel(), weights=pixels[..., channel].ravel())
        means[present, channel] = sums[present] / counts[present]
    inside = _inside(labels, border)[..., None]
    painted = np.where(inside, means.round().astype(np.uint8)[labels], colours[labels])
    return [Image.fromarray(frame) for frame in painted]


def groups(
    model: nn.Module,
    image: Image.Image,
    after: Sequence[int] | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    *,
    border: int = 1,
    scale: int | None = None,
) -> Image.Image:
    """Return a picture of an image as a model sees it, beside the groups of its patches after some of the blocks.

    Args:
        model: A model with square patches, in eval mode, with Token Merging applied.
        image: An image of any size.
        after: Numbers of blocks after which to show the groups, as for `side_by_side`.
        preprocess: Image -> [C, H, W]; None for `plm_core.transform_for` of the model.
        border: Width of the borders in pixels.
        scale: Factor by which to enlarge the pictures, as for `side_by_side`.

    Raises:
        InputError: Token Merging is not applied, the model is in training mode, or there is no such block.
    """
    return side_by_side(*run_and_trace(model, image, preprocess), after, border=border, scale=scale)


def run_and_trace(
    model: nn.Module, image: Image.Image, preprocess: Callable[[Image.Image], Tensor] | None = None
) -> tuple[NDArray[np.uint8], Trace]:
    """Run a model that merges tokens on an image.

    Args:
        model: A model in eval mode, with Token Merging applied.
        image: An image of any size.
        preprocess: Image -> [C, H, W]; None for `plm_core.transform_for` of the model.

    Returns:
        The preprocessed image, uint8 [H, W, 3], and the trace of this batch of one.

    Raises:
        InputError: Token Merging is not applied, the model is in training mode, or it cannot run on the image.
    """
    if model.training:
        raise InputError("model is in training mode: call model.eval() first")
    preprocess = preprocess or transform_for(model)
    x = preprocess(image)
    try:
        traced = trace(model, x[None].to(next(model.parameters()).device))
    except (RuntimeError, ValueError, AssertionError, IndexError) as e:  # as models fail on a size that does not fit
        if isinstance(e, PlmError):
            raise
        raise InputError(
            f"{original_class(model).__name__} cannot run on {list(x[None].shape)}: {first_line(e)}"
        ) from e
    normalize = _normalize_of(preprocess)
    if normalize is not None:
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (normalize.mean, normalize.std))
        x = x * std + mean
    return _rgb(x.movedim(0, -1).numpy()), traced


def side_by_side(
    image: Picture, traced: Trace, after: Sequence[int] | None = None, *, border: int = 1, scale: int | None = None
) -> Image.Image:
    """Return a picture of an image beside the groups of its patches after some blocks, with numbers of tokens below.

    Args:
        image: The input of the model as an image.
        traced: A trace of a batch in which the image is the first, from a model with square patches.
        after: Numbers of blocks after which to show the groups, where 0 is before the first block; None for a quarter,
            half and all of the blocks.
        border: Width of the borders in pixels.
        scale: Factor by which to enlarge the pictures; None to enlarge small ones to at least 224 pixels.

    Raises:
        InputError: There is no such block, or the patches are not square.
    """
    if not isinstance(traced, Trace):
        raise InputError(f"traced is a {type(traced).__name__}; it is what tome.trace returns")
    if after is not None:
        if not isinstance(after, Sequence) or isinstance(after, str | bytes):
            raise InputError(f"after is {reprlib.repr(after)}; it is a list of numbers of blocks")
        _check_counts({f"after[{index}]": n for index, n in enumerate(after)}, 0)
    if scale is not None:
        _check_counts({"scale": scale}, 1)
    pixels, depth = _rgb(image), len(traced.groups)
    after = sorted({max(1, depth // 4), max(1, depth // 2), depth}) if after is None else after
    wrong = [n for n in after if not 0 <= n <= depth]
    if wrong:
        raise InputError(f"after has {wrong[0]}; the model has {depth} blocks")
    scale = scale or scale_of(*pixels.shape[:2])
    tokens = traced.groups[0].shape[1]
    patch = _patch(pixels.shape[0], pixels.shape[1], tokens - traced.prefix)
    enlarged = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
    pictures, captions = [enlarged], [f"the image\n{tokens} tokens"]
    for n in after:
        group, left = (traced.groups[n - 1][0], traced.tokens[n - 1]) if n else (torch.arange(tokens), tokens)
        pictures.append(paint(pixels, group, patch, traced.prefix, border=border, scale=scale))
        captions.append(f"after {n} of {depth} blocks\n{left} tokens")
    return contact_sheet(pictures, captions)


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str] | None = None, columns: int | None = None, gap: int = 8
) -> Image.Image:
    """Arrange pictures of one size in rows on white, each with its caption below.

    Args:
        pictures: One or more pictures.
        captions: One caption for each picture; None for none.
        columns: Number of pictures in a row; None for all of them.
        gap: Space between pictures in pixels.

    Raises:
        InputError: There is no picture, the sizes differ, or the number of captions is wrong.
    """
    for name, values, kind in (
        ("pictures", pictures, Image.Image),
        ("captions", [] if captions is None else captions, str),
    ):
        if not isinstance(values, list | tuple) or not all(isinstance(value, kind) for value in values):
            raise InputError(f"{name} is {reprlib.repr(values)}; it is a list of {kind.__name__}")
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        raise InputError(f"pictures of one size are expected, not of {len(sizes)} sizes")
    if captions is not None and len(captions) != len(pictures):
        raise InputError(f"captions has {len(captions)} entries for {len(pictures)} pictures")
    (width, height), below = sizes.pop(), 0
    columns = min(columns or len(pictures), len(pictures))
    if captions is not None:
        font = ImageFont.load_default(max(12, width // 18))
        measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        boxes = [measure.multiline_textbbox((0, 0), caption, font) for caption in captions]
        below = math.ceil(max(box[3] for box in boxes)) + gap
    across, down = width + gap, height + below + gap
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * across - gap, rows * down - gap), "white")
    draw = ImageDraw.Draw(sheet)
    for place, picture in enumerate(pictures):
        left, top = place % columns * across, place // columns * down
        sheet.paste(picture, (left, top))
        if captions is not None:
            anchor = (left + width / 2, top + height + gap / 2)
            draw.multiline_text(anchor, captions[place], "black", font, anchor="ma", align="center")
    return sheet


@lru_cache(maxsize=8)
def palette(count: int) -> NDArray[np.uint8]:
    """Return border colours [count, 3]. They are the same in every call, and the first ones do not depend on ``count``.

    Each colour is as far as possible from all before it as people see colours (CIELAB), and three times as far from the
    last 32. So groups that are far apart in a picture are told apart, and neighbours even more so.
    """
    axis = np.linspace(0, 255, 14).round()
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    bright, grey = rgb.max(1), rgb.min(1)
    rgb = rgb[(bright >= 0.4 * 255) & (grey <= 0.6 * bright)]  # neither dark nor pale, as pictures often are
    lab = _lab(rgb)
    nearest, last = np.full(len(rgb), np.inf), np.full((32, len(rgb)), np.inf)
    chosen = [len(rgb) // 2]
    while len(chosen) < min(count, len(rgb)):
        distance = np.linalg.norm(lab - lab[chosen[-1]], axis=1)
        last[len(chosen) % len(last)] = distance
        nearest = np.minimum(nearest, distance)
        chosen.append(int(np.minimum(nearest, last.min(0) / 3).argmax()))
    colours = np.resize(rgb[chosen], (count, 3)).astype(np.uint8)
    colours.setflags(write=False)  # the cache keeps it
    return colours


def _lab(rgb: NDArray[Any]) -> NDArray[Any]:
    """Convert sRGB colours [n, 3] from 0 to 255 to CIELAB, in which equal distances look equally different."""
    linear = np.where(rgb / 255 > 0.04045, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _check_counts(counts: Mapping[str, object], least: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(f"{name} is {reprlib.repr(value)}; it is an integer of at least {least}")


def _tokens(group: object) -> NDArray[Any]:
    """Return the token of each original token as an array, [N]."""
    return _array("group", group, "integers [tokens] are expected")


def _array(name: str, value: object, expected: str) -> NDArray[Any]:
    """Return numbers of any kind (tensors on any device, arrays, lists) as an array."""
    try:
        return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as e:
        raise InputError(f"{name} is a {type(value).__name__} that cannot be read; {expected}") from e


def _pixels(frames: Sequence[Picture] | NDArray[Any]) -> NDArray[np.uint8]:
    """Return frames as uint8 [F, H, W, 3]."""
    arrays = [_rgb(frame) for frame in frames]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise InputError(f"frames of one size are expected, not of {len(shapes)} sizes")
    return np.stack(arrays)


def _rgb(image: Picture) -> NDArray[np.uint8]:
    """Return an image as uint8 [H, W, 3]."""
    expected = "[height, width, 3 or 1] or [height, width] is expected"
    pixels = np.asarray(Channels(3)(image)) if isinstance(image, Image.Image) else _array("image", image, expected)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise InputError(f"image has shape {list(pixels.shape)}; {expected}")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = (pixels.clip(0, 1) * 255).round()
    return np.broadcast_to(pixels.astype(np.uint8), (*pixels.shape[:2], 3))


def _by_pixel(tokens: NDArray[Any], shape: tuple[int, ...], patch: tuple[int, int], prefix: int) -> NDArray[np.int64]:
    """Return the token of each pixel, [F, H, W]."""
    frames, height, width = shape
    (rows, row_rest), (columns, column_rest) = divmod(height, patch[0]), divmod(width, patch[1])
    if row_rest or column_rest:
        raise InputError(f"image is {height} x {width} pixels, no multiple of the patch size {patch[0]} x {patch[1]}")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer) or tokens.min(initial=0) < 0:
        raise InputError(
            f"group is {tokens.dtype} {list(tokens.shape)}; integers [tokens] of one sample, 0 or more, are expected"
        )
    times, rest = divmod(len(tokens) - prefix, rows * columns)
    if rest or times < 1 or frames % times:
        patches = f"{rows} x {columns} patches" + (f" in {frames} frames" if frames > 1 else "")
        raise InputError(f"group has {len(tokens)} tokens, {prefix} of them special; the rest are not {patches}")
    grid = tokens[prefix:].reshape(times, rows, columns).astype(np.int64)
    return grid.repeat(frames // times, 0).repeat(patch[0], 1).repeat(patch[1], 2)


def _inside(labels: NDArray[np.int64], border: int) -> NDArray[np.bool_]:
    """Return whether each pixel is more than ``border`` steps from other groups and from the image edge, [F, H, W]."""
    inside = np.ones(labels.shape, bool)
    height, width = labels.shape[1:]
    for _ in range(border):  # erode the masks of all groups by a cross, all at once
        if not inside.any():
            break
        around = np.pad(np.where(inside, labels, -1), ((0, 0), (1, 1), (1, 1)), constant_values=-1)
        for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
            inside &= around[:, down : down + height, right : right + width] == labels
    return inside


def _normalize_of(step: object) -> Any:
    """Return the step of a preprocessing that has a mean and a standard deviation, or None."""
    if hasattr(step, "mean") and hasattr(step, "std"):
        return step
    return next(filter(None, map(_normalize_of, getattr(step, "transforms", ()))), None)


def _patch(height: int, width: int, count: int) -> int:
    """Return the side of the patches if ``count`` square ones cover the image."""
    patch = max(1, math.isqrt(height * width // count))
    if height // patch * (width // patch) != count or height % patch or width % patch:
        raise InputError(
            f"the model cuts {height} x {width} pixels into {count} patches, which are not square or leave a rest: use "
            "a size that is a multiple of its patches, or paint"
        )
    return patch
