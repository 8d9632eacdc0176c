"""Inputs are the original's, and images of every kind become RGB. Overlays are the original's, too."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gazelle.pictures import jet, overlay
from gazelle.preprocessing import MEAN, STD, preprocess
from plm_core import InputError
from plm_core.testing import Golden
from plm_core.utils.images import ORIENTATION, open_image

GOLDEN = Golden(Path(__file__).parent / "goldens" / "preprocess_visualize.safetensors")
PIXELS = GOLDEN.inputs["image_hwc_uint8"].numpy()


def test_inputs_are_those_of_the_original():
    expected = GOLDEN.outputs["preprocessed_chw"]
    convert = preprocess(GOLDEN.config["size"])
    for image in (Image.fromarray(PIXELS), PIXELS, torch.from_numpy(PIXELS).permute(2, 0, 1)):
        torch.testing.assert_close(convert(image), expected, atol=1e-6, rtol=0)


def test_a_number_is_a_square_and_the_size_may_be_that_of_the_image():
    assert preprocess(30)(PIXELS).shape == (3, 30, 30)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    expected = (PIXELS.transpose(2, 0, 1) / np.float32(255) - mean) / std
    np.testing.assert_allclose(preprocess(100)(PIXELS), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = Image.fromarray(PIXELS[..., 0] // 128 * 255)
    expected = preprocess(20)(grey.convert("RGB"))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    torch.testing.assert_close(preprocess(20)(image), expected, atol=1e-5, rtol=0)


def test_transparent_pixels_are_laid_over_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    torch.testing.assert_close(preprocess(4)(clear), preprocess(4)(Image.new("RGB", (4, 4), "white")))


def test_a_file_is_read_as_stored_or_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(PIXELS[:40]).save(tmp_path / "x.png", exif=exif)
    stored, upright = open_image(tmp_path / "x.png", upright=False), open_image(tmp_path / "x.png")
    assert (stored.size, upright.size) == ((100, 40), (40, 100))
    torch.testing.assert_close(preprocess(20)(stored), preprocess(20)(PIXELS[:40]))


def test_it_can_be_sent_to_workers():
    assert pickle.loads(pickle.dumps(preprocess((8, 6))))(PIXELS).shape == (3, 8, 6)


@pytest.mark.parametrize("size", [0, 2.5, (3,), (3, 4, 5), "9", (3, -1), None, True])
def test_the_size_is_checked(size):
    with pytest.raises(InputError, match=r"size is .*; a whole number of pixels, or \(height, width\), is expected"):
        preprocess(size)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\); three numbers, one"),
        ({"std": (0.5, 0.5, 0.0)}, r"std is \(0.5, 0.5, 0.0\); three numbers above 0, one"),
    ],
)
def test_mean_and_deviation_are_checked(given, message):
    with pytest.raises(InputError, match=message):
        preprocess(8, **given)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photo.jpg", "image is a str; a PIL image or pixels of uint8 are expected"),
        (PIXELS.astype(np.float32), r"image is float32 \[100, 100, 3\]; uint8"),
        (torch.from_numpy(PIXELS), r"image is uint8 \[100, 3, 100\]"),
        (PIXELS[:0], r"image is uint8 \[0, 100, 3\]"),
    ],
)
def test_the_image_is_checked(image, message):
    with pytest.raises(InputError, match=message):
        preprocess(8)(image)


# --- overlays -------------------------------------------------------------------------------------------------


def test_overlays_are_those_of_the_original():
    for image in (PIXELS, Image.fromarray(PIXELS)):
        for heatmap in (GOLDEN.inputs["heatmap"], GOLDEN.inputs["heatmap"].numpy()):
            picture = overlay(image, heatmap, GOLDEN.config["bbox"])
            assert picture.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(picture), GOLDEN.outputs["visualization_rgba"])


def test_without_a_box_nothing_is_green():
    boxed, plain = (np.asarray(overlay(PIXELS, torch.zeros(4, 4), box)) for box in ((0.2, 0.2, 0.8, 0.8), None))
    green = (0, 128, 0, 255)
    assert (boxed == green).all(-1).sum() > 200
    assert not (plain == green).all(-1).any()


def test_the_colours_are_those_of_matplotlib():
    matplotlib = pytest.importorskip("matplotlib")
    colours = matplotlib.colormaps["jet"](np.arange(256))[:, :3]
    np.testing.assert_array_equal(jet(), (colours * 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_an_image_of_any_mode_can_be_painted(mode):
    grey = Image.new("L", (30, 20), 200)
    image = Image.new("I;16", (30, 20), 200 * 257) if mode == "I;16" else grey.convert(mode)
    expected = np.asarray(overlay(grey.convert("RGB"), torch.ones(2, 2)))
    np.testing.assert_array_equal(np.asarray(overlay(image, torch.ones(2, 2))), expected)


def test_values_beyond_the_range_are_clipped_and_half_precision_is_taken():
    for low, high in ((-5, 7), (torch.tensor(-3.0), torch.tensor(1.5))):
        heatmap = torch.tensor([[float(low), float(high)]], dtype=torch.bfloat16)
        np.testing.assert_array_equal(overlay(PIXELS, heatmap), overlay(PIXELS, torch.tensor([[0.0, 1.0]])))


@pytest.mark.parametrize(
    ("heatmap", "box", "message"),
    [
        (torch.zeros(1, 4, 4), None, r"heatmap has shape \[1, 4, 4\]; \[rows, columns\] is expected"),
        (torch.full((4, 4), math.nan), None, "heatmap has values that are not finite"),
        (torch.zeros(4, 4), (0.5, 0.5, 0.1, 0.9), r"bbox is \[0.5, 0.5, 0.1, 0.9\]; \(x0, y0, x1, y1\) in fractions"),
        (torch.zeros(4, 4), (0.5, 0.5, 0.9), "bbox is"),
        (torch.zeros(4, 4), (0.5, 0.5, 0.9, math.inf), "bbox is"),
    ],
)
def test_overlays_check_their_arguments(heatmap, box, message):
    with pytest.raises(InputError, match=message):
        overlay(PIXELS, heatmap, box)
