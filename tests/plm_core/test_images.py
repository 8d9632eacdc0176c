"""Images are read alike from files, bytes and pixels, and errors say which cannot be read and why."""

import numpy as np
import pytest
from PIL import Image

from plm_core.errors import InputError
from plm_core.utils.images import decode_image, open_image


def test_files_and_their_bytes_are_the_same_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    read = [open_image(tmp_path / "x.png"), decode_image((tmp_path / "x.png").read_bytes()), decode_image(pixels)]
    for image in read:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert decode_image(pixels[..., :1]).mode == "L"


def test_16_bits_are_kept():
    """The preprocessing of a model scales them to 8 bits (`plm_core.transform_for`), decoding does not."""
    pixels = np.full((2, 2), 40000, np.uint16)
    assert np.asarray(decode_image(pixels)).max() == 40000


def test_what_cannot_be_read_is_said(tmp_path):
    Image.new("RGB", (99, 99)).save(tmp_path / "cut.png")
    cut = (tmp_path / "cut.png").read_bytes()[:-30]
    (tmp_path / "cut.png").write_bytes(cut)
    with pytest.raises(InputError, match=r"^image '.*cut\.png' cannot be read: "):
        open_image(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"^(?!not an image)."):
        decode_image(cut)
    with pytest.raises(InputError, match=r"^not an image$"):
        decode_image(b"text")
