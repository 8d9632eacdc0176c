"""Images are cut like the original cuts them, and within a budget by what they hold."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from plm_core import InputError
from plm_core.lm import tiling
from plm_core.testing.goldens import goldens_in

golden = goldens_in(Path(__file__).parent / "goldens")
SIDES = st.integers(1, 3000)


def budget_grid(width, height, chunks, tile=448, max_num_tiles=36):
    """The grid for a budget of so many chunks, and a bit more."""
    return tiling.budget_grid(width, height, tile, 256, 256 * chunks + 255, max_num_tiles)


# --- the original's rule ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(5))
def test_the_grid_is_the_originals(row):
    case = golden("tiling_and_pixels")
    most = case.inputs["max_num_tiles"].tolist()[row]
    sizes, expected = case.inputs["size_wh"].tolist(), case.outputs["grid_wh_fit"][row].tolist()
    grids = [tiling.grid(width, height, case.config["grid_tile"], most) for width, height in sizes]
    assert grids == [(columns, rows, bool(fits)) for columns, rows, fits in expected]


@given(width=SIDES, height=SIDES, most=st.integers(1, 36))
@settings(max_examples=60, deadline=None)
def test_the_grid_holds_the_image_whenever_one_of_so_many_tiles_can(width, height, most):
    columns, rows, fits = tiling.grid(width, height, 448, most)
    assert 1 <= columns * rows <= most
    assert fits == (columns * 448 >= width and rows * 448 >= height)
    assert fits == (math.ceil(width / 448) * math.ceil(height / 448) <= most)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(("path", "name"), [("pil", "pil"), ("tensor", "hf")])
def test_chunks_are_the_originals(number, path, name):
    case = golden("tiling_and_pixels")
    setting = case.config["cases"][number]
    pixels = case.inputs[f"image{number}"]
    for image in (pixels, pixels.numpy(), Image.fromarray(pixels.numpy())):
        chunks = tiling.tiles(image, setting["tile"], setting["max_num_tiles"], setting["mode"], path)
        assert chunks.dtype == torch.float32
        assert chunks.is_contiguous()
        torch.testing.assert_close(chunks, case.outputs[f"{name}{number}"], atol=1e-6, rtol=0)


def test_tiles_come_row_by_row_behind_the_thumbnail():
    pixels = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, 8, 0).repeat(8, 1)
    image = Image.fromarray(pixels)  # greyscale, six squares of 8 x 8, each as bright as its number
    chunks = tiling.cut(image, 8, (3, 2), "pil")
    assert chunks.shape == (7, 3, 8, 8)
    assert [tile.unique().tolist() for tile in chunks[1:]] == [[number * 40] for number in range(6)]
    assert torch.equal(chunks[0], tiling.cut(image, 8, None, "pil")[0])


@pytest.mark.parametrize(
    ("size", "first"),
    [
        ((33, 70), (33, 28)),
        ((20, 30), (20, 28)),  # wider, and less high
        ((40, 48), (28, 48)),  # shrinks more in height, but not twice as much
        ((90, 31), (28, 31)),
        ((20, 25), (28, 25)),
    ],
)
def test_the_axes_are_resampled_in_one_order_by_every_version_of_pillow(size, first):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    expected = image.resize(first, Image.Resampling.BICUBIC).resize((28, 28), Image.Resampling.BICUBIC)
    other = (size[0] + 28 - first[0], size[1] + 28 - first[1])
    assert expected != image.resize(other, Image.Resampling.BICUBIC).resize((28, 28), Image.Resampling.BICUBIC)
    chunk = tiling.cut(image, 28, None, "pil")[0]
    assert np.array_equal(chunk.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_pixels_are_normalised_by_mean_and_deviation():
    white = np.full((8, 8, 3), 255, np.uint8)
    assert tiling.tiles(white, 8, 1).unique().tolist() == [1]
    own = tiling.tiles(white, 8, 1, "vanilla", mean=(0.5, 0.25, 0), std=(0.5, 0.5, 0.25))
    assert own[0, :, 0, 0].tolist() == [1, 1.5, 4]


def test_one_tile_is_a_thumbnail_and_the_same_again():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    both = tiling.tiles(image, 8, 1)
    assert len(both) == 2
    assert torch.equal(both[0], both[1])
    assert torch.equal(tiling.tiles(image, 8, 1, "vanilla"), both[:1])


def test_transparent_pixels_lie_over_white_and_a_read_only_array_is_no_matter():
    clear = Image.new("RGBA", (9, 9), (10, 20, 30, 0))
    assert tiling.tiles(clear, 8, 1, "vanilla").unique().tolist() == [1]
    fixed = np.zeros((9, 9, 3), np.uint8)
    fixed.flags.writeable = False
    for path in ("pil", "tensor"):
        assert tiling.tiles(fixed, 8, 1, "vanilla", path).unique().tolist() == [-1]


# --- the rule with a budget ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "chunks", "expected"),
    [
        ((1, 1), 37, None),
        ((448, 448), 37, None),
        ((449, 100), 37, (2, 1)),
        ((449, 449), 37, (2, 2)),
        ((640, 480), 37, (2, 2)),
        ((640, 480), 4, (2, 1)),
        ((640, 480), 3, (2, 1)),
        ((640, 480), 2, None),
        ((640, 480), 1, None),
        ((480, 640), 3, (1, 2)),
        ((1000, 1000), 4, None),  # two or three tiles would sharpen one axis only
        ((1000, 1000), 5, (2, 2)),
        ((1920, 1080), 10, (4, 2)),
        ((1920, 1080), 16, (5, 3)),
        ((4000, 3000), 37, (7, 5)),
        ((3000, 300), 5, (4, 1)),
        ((10**6, 10**6), 37, (6, 6)),
    ],
)
def test_a_budget_is_spent_by_what_the_image_holds(size, chunks, expected):
    assert budget_grid(*size, chunks) == expected


def test_a_budget_never_exceeds_the_number_of_tiles():
    assert budget_grid(4000, 3000, 37, max_num_tiles=9) == (3, 3)
    assert budget_grid(4000, 3000, 37, max_num_tiles=1) is None


def share(width, height, shape, tile=448):
    columns, rows = shape or (1, 1)
    return min(columns * tile / width, rows * tile / height, 1)


@given(width=SIDES, height=SIDES, chunks=st.integers(1, 40))
@example(width=1792, height=896, chunks=5)  # 2 x 1 and 4 x 1 and 2 x 2 keep as much
@settings(max_examples=80, deadline=None)
def test_the_rule_of_a_budget(width, height, chunks):
    shape = budget_grid(width, height, chunks)
    columns, rows = shape or (1, 1)
    number = columns * rows
    if shape is not None:
        assert 2 <= number <= min(chunks - 1, 36)
    assert (columns - 1) * 448 < width
    assert (rows - 1) * 448 < height
    assert budget_grid(height, width, chunks) == (shape and (rows, columns))
    # Nothing within the budget keeps more of the resolution, or as much with fewer tiles.
    kept = share(width, height, shape)
    for other in ((c, r) for c in range(1, 37) for r in range(1, 36 // c + 1) if c * r + 1 <= max(chunks, 2)):
        assert share(width, height, other) <= kept * (1 + 1e-12)
        assert share(width, height, other) < kept * (1 - 1e-12) or other[0] * other[1] >= number
    # A larger budget never takes tiles or sharpness away.
    more = budget_grid(width, height, chunks + 1)
    assert math.prod(more or (1, 1)) >= number
    assert share(width, height, more) >= kept


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: tiling.grid(0, 5, 8, 4), ("width 0", "whole number from 1")),
        (lambda: tiling.grid(5, 5.0, 8, 4), ("height 5.0", "whole number from 1")),
        (lambda: tiling.grid(5, 5, 8, True), ("max_num_tiles True",)),
        (lambda: tiling.budget_grid(5, 5, 8, 256, 255, 4), ("max_tokens 255", "256")),
        (lambda: tiling.budget_grid(5, 5, 8, 256, -1, 4), ("max_tokens -1",)),
        (
            lambda: tiling.tiles(np.zeros((4, 4, 3), np.uint8), 8, 4, "tile"),
            ("mode 'tile'", "'thumb+tile'", "'vanilla'"),
        ),
        (lambda: tiling.tiles(np.zeros((4, 4, 3), np.uint8), 8, 4, path="cv"), ("path 'cv'", "'pil'", "'tensor'")),
        (lambda: tiling.tiles(np.zeros((3, 4, 4), np.uint8), 8, 4), ("uint8 [3, 4, 4]", "uint8 [height, width, 3]")),
        (lambda: tiling.tiles(torch.zeros(4, 4, 3), 8, 4), ("float32 [4, 4, 3]", "uint8 [height, width, 3]")),
        (lambda: tiling.tiles("cat.jpg", 8, 4), ("image is str", "PIL image")),
        (lambda: tiling.tiles(np.zeros((0, 4, 3), np.uint8), 8, 4), ("4 x 0 pixels",)),
        (lambda: tiling.tiles(Image.new("F", (4, 4), 7), 8, 4), ("pixels lie between 7 and 7",)),
    ],
)
def test_bad_input_is_one_clear_line(call, parts, one_line):
    with one_line(InputError, *parts):
        call()
