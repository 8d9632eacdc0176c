"""Boxes are written into texts and drawn on frames as the original does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from safetensors import safe_open

from plm_core import InputError
from plm_core.lm.regions import UnknownBox, draw_boxes, region_text

GOLDEN = Path(__file__).parent / "goldens" / "chat_regions_frames.safetensors"
ERRORS = {"error:ValueError": ValueError, "error:IndexError": IndexError}


def cases():
    with safe_open(GOLDEN, "pt") as file:
        return json.loads(file.metadata()["region_cases"])


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["text"] + str(case["options"]))
def test_the_text_is_the_originals(case):
    arguments = (case["text"], case["boxes_xywh"], case["width"], case["height"])
    if case["output"] in ERRORS:
        with pytest.raises(ERRORS[case["output"]]) as caught:
            region_text(*arguments, **case["options"])
        assert isinstance(caught.value, InputError)
    else:
        assert region_text(*arguments, **case["options"]) == case["output"]


def test_digits_are_cut_off_and_not_rounded():
    box = (0.9999, 66.66, 0, 0)
    assert region_text("<|bbox0|>", [box], 1000, 100) == "[000,666,000,666]"
    assert region_text("<|bbox0|>", [box], 1000, 100, coordinate_format="standard") == "[0.000,0.666,0.000,0.666]"


def test_a_text_without_markers_stays():
    for text in ("", "no box here", "<|bbox|> <|bboxA|> <bbox0> <|mask0|>"):
        assert region_text(text, [], 10, 10) == text


@given(
    box=st.tuples(st.floats(-50, 150), st.floats(-50, 150), st.floats(0, 200), st.floats(0, 200)),
    form=st.sampled_from(["xyxy", "xywh"]),
)
@settings(max_examples=50, deadline=None)
def test_coordinates_are_three_digits_whatever_the_box(box, form):
    text = region_text("a <|bbox0|> b", [box], 97, 61, form)
    numbers = text.removeprefix("a [").removesuffix("] b").split(",")
    assert [len(number) for number in numbers] == [3] * 4
    assert all(number.isdigit() for number in numbers)
    assert region_text("<|bbox0|>", [box], 97, 61, form, "standard").replace("0.", "") == f"[{','.join(numbers)}]"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"text": "<|bbox2|>"}, ("<|bbox2|>", "1 box")),
        ({"boxes": [(1, 2, 3)]}, ("box 0", "[1, 2, 3]", "x, y, width and height")),
        ({"boxes": [(1, 2, -3, 4)]}, ("box 0", "-3")),
        ({"boxes": [(1, 2, float("nan"), 4)]}, ("box 0", "nan")),
        ({"boxes": ["1234"]}, ("box 0",)),
        ({"width": 0}, ("width 0", "above 0")),
        ({"height": None}, ("height None", "above 0")),
        ({"region_format": "polygon"}, ("region_format 'polygon'", "'xyxy' and 'xywh'")),
        ({"coordinate_format": "00"}, ("coordinate_format '00'", "'000' and 'standard'")),
        ({"region_type": "mask"}, ("region_type 'mask'", "'bbox'")),
    ],
)
def test_a_bad_region_is_one_clear_line(change, parts, one_line):
    arguments = {"text": "<|bbox0|>", "boxes": [(1, 2, 3, 4)], "width": 10, "height": 10}
    with one_line(InputError, *parts) as caught:
        region_text(**arguments | change)
    assert isinstance(caught.value, UnknownBox) == ("text" in change)


# --- drawing ------------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_on_the_frames_that_they_are_in():
    frames = np.random.default_rng(0).integers(0, 200, (4, 40, 60, 3), np.uint8)
    boxes = {"0": [5, 6, 30, 20], "7": None, "9": [10.7, -5, 90, 20], "8": [0, 0, 9, 9]}
    drawn = draw_boxes(frames, [0, 7, 9, 11], boxes)
    assert drawn.dtype == torch.uint8
    for position, box in ((0, (5, 6, 30, 20)), (1, None), (2, (10, -5, 90, 20)), (3, None)):
        expected = Image.fromarray(frames[position])
        if box is not None:
            ImageDraw.Draw(expected).rectangle(box, outline=(255, 0, 0), width=4)
        assert np.array_equal(drawn[position].numpy(), np.asarray(expected))
    assert frames.max() < 200, "the frames that were given stay"


def test_the_line_is_red_and_four_pixels_wide():
    drawn = draw_boxes(torch.zeros(1, 20, 20, 3, dtype=torch.uint8), [3], {"3": [2, 2, 17, 17]})[0]
    assert drawn[10, :, 0].tolist() == [0] * 2 + [255] * 4 + [0] * 8 + [255] * 4 + [0] * 2
    assert not drawn[..., 1:].any()


@pytest.mark.parametrize(
    ("indices", "boxes", "parts"),
    [
        ([0], {}, ("1 numbers", "2 frames")),
        ([0, 5], {"5": [1, 2, 3]}, ("frame 5", "[1, 2, 3]", "left, top, right and bottom")),
        ([0, 5], {"5": [9, 2, 3, 4]}, ("frame 5", "left <= right")),
        ([0, 5], {"0": [1, 9, 3, 4]}, ("frame 0", "top <= bottom")),
        ([0, 5], {"5": [1, 2, 3, float("inf")]}, ("frame 5", "inf")),
        ([0, 5], {"5": "1234"}, ("frame 5", "'1234'")),
        ([0, 5], {"5": 7}, ("frame 5", "is 7")),
    ],
)
def test_a_bad_box_is_one_clear_line(indices, boxes, parts, one_line):
    with one_line(InputError, *parts):
        draw_boxes(np.zeros((2, 16, 16, 3), np.uint8), indices, boxes)
