"""Target maps are the original's, at every place of the gaze point."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from gazelle import targets
from plm_core import InputError

GOLDEN = safe_open(Path(__file__).parent / "goldens" / "heatmap_targets.safetensors", "pt")
CASES = json.loads(GOLDEN.metadata()["cases"])


@pytest.mark.parametrize("number", range(len(CASES)), ids=str)
def test_maps_are_those_of_the_original(number):
    expected = GOLDEN.get_tensor(f"outputs.heatmap_{number}")
    torch.testing.assert_close(targets.heatmap(**CASES[number]), expected, atol=1e-7, rtol=0)


@given(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5), st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))
def test_the_largest_value_is_one_and_near_the_point_or_the_map_is_zero(x, y, height, width, sigma):
    for htype in targets.KINDS:
        target = targets.heatmap(x, y, height, width, sigma, htype)
        assert target.shape == (height, width)
        assert target.dtype == torch.float32
        column, row, reach = int(x * width), int(y * height), 3 * sigma
        if x < 0 or y < 0 or column - reach >= width or row - reach >= height:
            assert not target.any()
            continue
        assert target.max() == 1
        assert target[min(row, height - 1), min(column, width - 1)] == 1
        assert not target[row + reach + 1 :].any()
        assert not target[:, column + reach + 1 :].any()


def test_a_point_just_beyond_the_border_has_a_map():
    assert targets.heatmap(1.1, 0.5, 64, 64).max() == 1
    assert not targets.heatmap(1.2, 0.5, 64, 64).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gazex": float("nan")}, "gazex is nan; a finite number, a fraction of the picture, is expected"),
        ({"gazey": "a"}, "gazey is 'a'; a finite number"),
        ({"height": 0}, "height is 0; a whole number of cells, 1 or more, is expected"),
        ({"sigma": 1.5}, "sigma is 1.5; a whole number"),
        ({"htype": "Laplace"}, "htype 'Laplace' is not allowed: 'Gaussian' and 'Cauchy' are"),
    ],
)
def test_arguments_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        targets.heatmap(**{"gazex": 0.5, "gazey": 0.5, "height": 8, "width": 8} | change)
