"""Pixels of the original, and what is done with unusual images."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import pe_encoder
import plm_core


def test_pixels_are_those_of_the_original(golden):
    case = golden("preprocess")
    for number, item in enumerate(case.config["items"]):
        image = Image.fromarray(case.inputs[f"{number}.pixels"].numpy())
        assert image.mode == item["mode"]
        for mode in ("squash", "center"):
            pixels = pe_encoder.preprocess(case.config["size"], mode)(image)
            torch.testing.assert_close(pixels, case.outputs[f"{number}.{mode}"], atol=1e-6, rtol=0)


def test_timms_transform_of_a_model_is_the_same():
    model = plm_core.create_model("pe_core_t16_384", layers=1)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 37, 3), dtype=np.uint8))
    torch.testing.assert_close(
        plm_core.transform_for(model)(image), pe_encoder.preprocess(384)(image), atol=1e-6, rtol=0
    )


def test_an_image_keeps_its_mode_until_it_is_resized():
    palette = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 2, "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert set(pe_encoder.preprocess(9)(palette).unique().tolist()) == {-1.0, 1.0}, "no pixel is between the colours"
    clear = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert pe_encoder.preprocess(4)(clear).shape == (3, 4, 4)


def test_it_can_be_sent_to_workers():
    preprocess = pickle.loads(pickle.dumps(pe_encoder.preprocess(8, "center")))
    assert preprocess(Image.new("L", (9, 20))).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "size"), (((8, 8),), "a whole number"), ((8, "crop"), "'squash' and 'center' are")],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(plm_core.InputError, match=message):
        pe_encoder.preprocess(*arguments)


def test_what_is_no_image_is_refused():
    with pytest.raises(plm_core.InputError, match="a PIL image is expected"):
        pe_encoder.preprocess(8)(np.zeros((8, 8, 3)))
