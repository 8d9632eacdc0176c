"""Images are read by one rule from files, bytes and pixels, and errors say which cannot be read and why."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import plm_core
from plm_core.errors import InputError
from plm_core.utils.images import ORIENTATION, Channels, decode_image, open_image, pixels_of, plain, stored_size


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pgm(pixels):
    height, width = pixels.shape
    return f"P5 {width} {height} 65535\n".encode() + pixels.astype(">u2").tobytes()


def test_files_bytes_and_pixels_are_the_same_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    read = [open_image(tmp_path / "x.png"), decode_image((tmp_path / "x.png").read_bytes()), decode_image(pixels)]
    for image in read:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert decode_image(pixels[..., :1]).mode == "L"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_are_turned_as_their_exif_data_say(kind, tmp_path):
    """All eight orientations of one picture, dark but for a bright corner, end with the corner at the same place."""
    upright = Image.new("L", (48, 32))
    upright.paste(255, (32, 0, 48, 16))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the numbers of PIL's inverse transpositions
    for orientation, method in back.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        lying = upright if method is None else upright.transpose(method)
        contents = encoded(lying.convert("RGB"), kind, exif=exif)
        image = decode_image(contents)
        assert image.size == (48, 32)
        assert np.abs(np.asarray(image.convert("L"), int) - np.asarray(upright)).max() < 60  # JPEG and WebP lose some
    (tmp_path / "x").write_bytes(contents)
    assert open_image(tmp_path / "x").size == (48, 32)
    assert not open_image(tmp_path / "x").getexif(), "the next one to turn it would turn it twice"


def test_an_image_can_be_read_as_stored(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "x.png", upright=False)), pixels)
    assert open_image(tmp_path / "x.png").size == (4, 6)
    assert stored_size(tmp_path / "x.png") == (6, 4)
    (tmp_path / "text").write_text("text")
    for name, reason in {"text": "not an image", "absent": "No such file or directory"}.items():
        with pytest.raises(InputError, match=reason):
            stored_size(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_lose_no_picture():
    assert decode_image(encoded(Image.new("L", (4, 6)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).size == (4, 6)


def test_palettes_bits_and_colour_spaces():
    grey = Image.new("L", (2, 1), 200)
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert list(decode_image(encoded(bits)).tobytes()) == [0, 255]
    stored = [
        decode_image(encoded(image, "TIFF")) for image in (grey.convert("P"), grey.convert("RGB").convert("CMYK"))
    ]
    for read in (*stored, plain(grey.convert("RGB").convert("YCbCr"))):  # Pillow reads files of the last from 13.0 on
        assert (read.mode, read.getpixel((0, 0))) == ("RGB", (200, 200, 200))
    with pytest.raises(InputError, match=r"^La pixels: conversion from La"):
        plain(Image.new("La", (1, 1)))


def test_transparent_pixels_lie_over_white():
    pixels = np.array([[[9, 99, 199, 255], [9, 99, 199, 0], [0, 100, 200, 102]]], np.uint8)
    expected = [[[9, 99, 199], [255, 255, 255], [153, 193, 233]]]
    for image in (decode_image(pixels), decode_image(encoded(Image.fromarray(pixels)))):
        np.testing.assert_array_equal(np.asarray(image), expected)
    clear = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    clear.putpalette([10, 20, 30, 40, 50, 60])
    for kind in ("PNG", "GIF"):
        read = decode_image(encoded(clear, kind, transparency=1))
        assert [read.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]
    grey = np.array([[[40, 255], [40, 0]]], np.uint8)
    assert list(Channels(1)(decode_image(encoded(Image.fromarray(grey, "LA")))).tobytes()) == [40, 255]


DEEP = {
    "PNG of 16 bits": lambda p: encoded(Image.fromarray(p.astype(np.uint16))),
    "PGM": pgm,
    "TIFF of 16 bits": lambda p: encoded(Image.fromarray(p.astype(np.uint16)), "TIFF"),
    "TIFF of 32 bits": lambda p: encoded(Image.fromarray(p.astype(np.int32)), "TIFF"),
    "TIFF of floats": lambda p: encoded(Image.fromarray((p / 65535).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("peak", [65535, 4095, 255])
def test_more_than_8_bits_are_shares_of_one_scale(kind, peak):
    """Whatever the brightest pixel of an image is: dark images stay dark, and 12 bits keep their levels."""
    ramp = np.linspace(0, peak, 64 * 64).round().reshape(64, 64)
    image = decode_image(DEEP[kind](ramp))
    np.testing.assert_allclose(np.asarray(image), ramp / 65535, atol=1e-6)
    assert image.mode == "F"
    deep = Channels(1, deep=True)(image)
    assert (len(deep.unique()), deep.dtype) == (min(peak + 1, 4096), torch.float32)
    rounded = np.asarray(Channels(1)(image))
    np.testing.assert_array_equal(rounded, np.floor(ramp / 257 + 0.5))
    assert pixels_of(image).shape == (3, 64, 64)


def test_a_tiff_of_12_bits_has_a_scale_of_its_own():
    file = Image.open(io.BytesIO(encoded(Image.fromarray(np.array([[0, 4095]], np.uint16)), "TIFF")))
    file.tag_v2[258] = 12
    assert list(np.asarray(plain(file)).ravel()) == [0, 1]


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.array([[0.0, 65535]], np.float32), r"between 0 and 65535; floats from 0 to 1 are allowed"),
        (np.array([[-0.5, 1]], np.float32), r"between -0.5 and 1; floats"),
        (np.array([[np.nan, 1]], np.float32), r"between nan and nan; floats"),
        (np.array([[0, 65536]], np.int32), r"between 0 and 65536; integers from 0 to 65535 are allowed"),
        (np.array([[-1, 5]], np.int32), r"between -1 and 5; integers"),
    ],
)
def test_pixels_beyond_the_scale_are_refused(pixels, said):
    with pytest.raises(InputError, match=said):
        decode_image(encoded(Image.fromarray(pixels), "TIFF"))
    overshoot = Image.fromarray(np.array([[-0.001, 1.001]], np.float32))
    assert list(np.asarray(plain(overshoot)).ravel()) == [0, 1]


@pytest.mark.parametrize("make", ["test_vit", "torchvision:shufflenet_v2_x0_5"])
def test_the_preprocessing_of_a_model_keeps_the_levels(make):
    """The same picture in 8 and in 16 bits differs by the rounding alone, and 12 bits in 16 are more than 16 levels."""
    preprocess = plm_core.transform_for(plm_core.create_model(make))
    wave = np.add.outer(np.sin(np.arange(300) / 30), np.cos(np.arange(200) / 30)) / 4 + 0.5
    eight, deep = Image.fromarray((wave * 255).round().astype(np.uint8)), (wave * 65535).round().astype(np.uint16)
    assert (preprocess(eight) - preprocess(Image.fromarray(deep))).abs().max() < 2 / 255 / 0.22
    assert len(preprocess(Image.fromarray(deep // 16))[0].unique()) > 100


def test_images_whose_rim_is_padded_are_rounded():
    model = plm_core.create_model("test_vit")
    model.pretrained_cfg = model.pretrained_cfg | {"crop_mode": "border"}
    assert plm_core.transform_for(model)(Image.new("I;16", (300, 200))).shape == (3, 160, 160)


def test_what_cannot_be_read_is_said(tmp_path):
    Image.new("RGB", (99, 99)).save(tmp_path / "cut.png")
    cut = (tmp_path / "cut.png").read_bytes()[:-30]
    (tmp_path / "cut.png").write_bytes(cut)
    with pytest.raises(InputError, match=r"^image '.*cut\.png' cannot be read: "):
        open_image(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"^(?!not an image)."):
        decode_image(cut)
    for nothing in (b"text", b""):
        with pytest.raises(InputError, match=r"^not an image$"):
            decode_image(nothing)
    with pytest.raises(InputError, match=r"^image '.*none\.png' cannot be read: No such file or directory$"):
        open_image(tmp_path / "none.png")
