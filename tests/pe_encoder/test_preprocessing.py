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


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "I", "F"])
def test_timms_transform_of_a_model_is_the_same(mode):
    model = plm_core.create_model("pe_core_t16_384", layers=1)
    shares = np.random.default_rng(0).random((37, 50, 3), dtype=np.float32)
    if mode == "F":
        image = Image.fromarray(shares[..., 0])
    elif mode[0] == "I":
        image = Image.fromarray((65535 * shares[..., 0]).astype(np.uint16)).convert(mode)
    else:
        image = Image.fromarray((255 * shares).astype(np.uint8)).convert(mode)
    pixels = pe_encoder.preprocess(384)(image)
    assert pixels.std() > 0.1
    atol = 1e-5 if mode[0] in "IF" else 1e-6  # more than 8 bits are resized by torch there, and by PIL here
    torch.testing.assert_close(plm_core.transform_for(model)(image), pixels, atol=atol, rtol=0)


def test_an_image_keeps_its_mode_until_it_is_resized():
    palette = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 2, "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert set(pe_encoder.preprocess(9)(palette).unique().tolist()) == {-1.0, 1.0}, "no pixel is between the colours"
    clear = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert pe_encoder.preprocess(4)(clear).shape == (3, 4, 4)


def test_levels_beyond_8_bits_are_kept():
    levels = Image.fromarray(np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64))
    for mode in ("squash", "center"):
        pixels = pe_encoder.preprocess(64, mode)(levels)
        assert (pixels.min(), pixels.max(), len(pixels[0].unique())) == (-1, 1, 64 * 64)


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
    with pytest.raises(plm_core.InputError, match="floats from 0 to 1 are allowed"):
        pe_encoder.preprocess(8)(Image.new("F", (8, 8), 255.0))
