"""Pictures of features."""

import numpy as np
import pytest
import torch
from PIL import Image

from pe_encoder import pictures
from plm_core import InputError


@pytest.mark.parametrize(
    ("lch", "rgb"),
    [  # the primaries of sRGB in CIE LCh, as any table of colours has them
        ((53.24, 104.55, 40.00), (1, 0, 0)),
        ((87.74, 119.78, 136.02), (0, 1, 0)),
        ((32.30, 133.81, 306.28), (0, 0, 1)),
        ((100.0, 0.0, 0.0), (1, 1, 1)),
        ((0.0, 0.0, 123.0), (0, 0, 0)),
        ((53.585, 0.0, 0.0), (128 / 255, 128 / 255, 128 / 255)),
    ],
)
def test_colours_are_those_of_cie_lch(lch, rgb):
    np.testing.assert_allclose(pictures.lch_to_rgb(np.array(lch)), rgb, atol=3e-3)


def two_halves(noise=0.01):
    x = noise * torch.randn(8, 6, 10, generator=torch.Generator().manual_seed(0))
    x[:4, :, :5] += 1
    return x


def test_similar_patches_have_one_colour_and_others_another():
    image = Image.new("RGB", (50, 30), "white")
    painted = np.asarray(pictures.paint_pca(image, two_halves(), beside=False)).astype(float)
    height, width = painted.shape[:2]
    assert (height, width) == (240, 400), "a small image is enlarged by a whole factor"
    assert painted.max() > 100
    components = pictures.components(two_halves())
    left, right = components[:, :4, 0], components[:, 6:, 0]
    assert abs(left.mean() - right.mean()) > 0.9
    assert max(left.std(), right.std()) < 0.1


def test_the_image_stands_left_of_its_features():
    image = Image.new("RGB", (300, 224), (255, 0, 0))
    both = np.asarray(pictures.paint_pca(image, two_halves()))
    assert both.shape == (224, 608, 3)
    assert (both[:, :300] == (255, 0, 0)).all()
    assert (both[:, 300:308] == 255).all()
    np.testing.assert_array_equal(both[:, 308:], np.asarray(pictures.paint_pca(image, two_halves(), beside=False)))


def test_a_picture_does_not_depend_on_the_sign_or_scale_of_what_is_computed():
    x = two_halves(0.3)
    torch.testing.assert_close(pictures.components(x), pictures.components(7 * x + 3))
    torch.testing.assert_close(pictures.components(x), pictures.components(x.flip(0)))


def test_the_blur_is_a_gaussian_over_three_patches():
    spot = torch.zeros(1, 5, 5, dtype=torch.float64)
    spot[0, 2, 2] = 1
    line = torch.tensor([np.exp(-0.5), 1, np.exp(-0.5)])
    kernel = torch.outer(line, line) / line.sum() ** 2
    torch.testing.assert_close(pictures.blur(spot)[0, 1:4, 1:4], kernel)
    assert pictures.blur(torch.ones(1, 1, 4)).allclose(torch.ones(1))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.rand(2, 4, 4), r"shape \[2, 4, 4\]; \[3 channels or more"),
        (torch.rand(1, 8, 4, 4), r"shape \[1, 8, 4, 4\]"),
        (torch.full((8, 4, 4), float("nan")), "not finite"),
        ("features", "that of a str"),
    ],
)
def test_a_wrong_map_is_refused(features, message):
    with pytest.raises(InputError, match=message):
        pictures.paint_pca(Image.new("RGB", (8, 8)), features)
