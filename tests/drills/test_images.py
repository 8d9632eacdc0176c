"""Odd and damaged image files through every reader: all give the same pixels, or each says why in one line."""

import io
import random
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from hiera.coco import CocoDetection
from plm_core.datasets import Dataset, Pictures
from plm_core.datasets.checking import unreadable
from plm_core.errors import InputError
from plm_core.prediction.reading import ImageFiles
from plm_core.utils.images import ORIENTATION, decode_image, open_image, pixels_of

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "ICO", "JPEG2000", "TGA", "PCX", "MPO", "DDS", "SGI")


def odd_image(draw):
    """Return the bytes of an image of any mode, size and orientation, in any format that takes it."""
    while True:
        mode, kind = draw.choice(MODES), draw.choice(FORMATS)
        size = draw.choice([1, 2, 7, 33]), draw.choice([1, 3, 16])
        noise = np.random.default_rng(draw.randrange(2**32)).random((size[1], size[0]))
        if mode in ("I", "I;16"):
            top = draw.choice([255, 4095, 65535] + [10**6] * (mode == "I"))
            image = Image.fromarray((noise * top).astype(np.int32 if mode == "I" else np.uint16))
        elif mode == "F":
            image = Image.fromarray((noise * draw.choice([1, 1, 255]) - draw.choice([0, 0, 0.5])).astype(np.float32))
        else:
            image = Image.fromarray((noise * 255).astype(np.uint8)).convert("LA" if mode == "LA" else "RGB")
            image = image.convert("RGBA" if mode == "RGBA" else mode) if mode != "LAB" else Image.new("LAB", size, 3)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray((noise[::-1] * 255).astype(np.uint8)))
        options = {}
        if draw.random() < 0.5:
            options["exif"] = Image.Exif()
            options["exif"][ORIENTATION] = draw.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        file = io.BytesIO()
        try:
            image.save(file, kind, **options)
        except Exception:  # PIL's writers refuse a mode in any way
            continue
        return file.getvalue()


def damaged(contents, draw):
    """Return the bytes as they are, cut, with bytes changed, or none."""
    way = draw.random()
    if way < 0.4:
        return contents
    if way < 0.6:
        return contents[: draw.randrange(len(contents))]
    changed = bytearray(contents)
    for _ in range(draw.choice([1, 3, 20])):
        changed[draw.randrange(min(len(changed), draw.choice([64, 10**6])))] = draw.randrange(256)
    return bytes(changed)


def readers(file, contents):
    """Return the ways to read an image, by name."""
    labels = np.zeros(1, np.int64)
    of_file = Pictures(Dataset("d", ["x"], labels, ("c",), [file]), lambda image: image)
    of_bytes = Pictures(Dataset("d", ["x"], labels, ("c",), [contents]), lambda image: image)

    def predicted():
        _, result = ImageFiles([file], lambda image: image)[0]
        if isinstance(result, InputError):
            raise result
        return result

    return {
        "file": lambda: open_image(file),
        "bytes": lambda: decode_image(contents),
        "predict": predicted,
        "folder": lambda: of_file[0][0],
        "table": lambda: of_bytes[0][0],
    }


def answer(read):
    """Return pixels, or the reason without the name of the image."""
    try:
        return pixels_of(read())
    except InputError as e:
        return str(e).rpartition("cannot be read: ")[2]


def coco(file, size):
    """Return the pixels that the dataset of a detector reads."""
    data = object.__new__(CocoDetection)
    data.folder, data.ids, data.objects, data.masks = file.parent, [1], {1: []}, False
    data.images = {1: {"id": 1, "file_name": file.name, "height": size[0], "width": size[1]}}
    return data.scene(0)[0].as_subclass(torch.Tensor)


@pytest.mark.trials(short=100, long=3000)
@pytest.mark.filterwarnings("ignore")
def test_readers_agree(trials, drill, tmp_path):
    draw, file = random.Random(7), tmp_path / "x"
    for number in range(trials):
        file.write_bytes(contents := damaged(odd_image(draw), draw))
        ways = readers(file, contents)
        answers = [drill.attempt(f"{number} {name}", partial(answer, read)) for name, read in ways.items()]
        first = answers[0]
        reason = unreadable([contents]).get(0)
        drill.expect(
            f"{number} check", bool(reason) == isinstance(first, str), f"check says {reason}, not {first}"[:300]
        )
        if isinstance(first, str):
            drill.expect(f"{number} line", first and "\n" not in first, f"no line: {first!r}")
            drill.expect(f"{number}", all(other == first for other in answers), f"readers differ: {answers}"[:300])
            continue
        answers += [coco(file, first.shape[1:]), pixels_of(decode_image((first * 255).byte().permute(1, 2, 0).numpy()))]
        if first.mul(255).frac().any():  # more than 8 bits, which no npz file has
            answers.pop()
        same = [isinstance(other, torch.Tensor) and torch.equal(first, other) for other in answers]
        drill.expect(f"{number}", all(same), f"readers differ: {same}")
        fine = 0 <= float(first.min()) <= float(first.max()) <= 1
        drill.expect(f"{number} range", fine, f"pixels from {first.min()} to {first.max()}")
