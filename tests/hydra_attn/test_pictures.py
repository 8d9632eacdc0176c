"""Pictures of the scores of patches, and the command that makes them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import plm_core
from hydra_attn import pictures
from plm_core.errors import InputError, NotSupported

NAME = "hydra_micro_shapes"


@pytest.fixture(scope="module")
def model():
    return plm_core.create_model(NAME, pretrained=True).eval()


def test_colours_say_for_or_against_and_how_much():
    pixels = np.full((4, 6, 3), 100, np.uint8)
    painted = np.asarray(pictures.paint(pixels, torch.tensor([1.0, 0.0, -0.5, 0.0, 0.0, 0.5])))
    assert painted.shape == (224, 336, 3)
    cells = painted[56::112, 56::112].astype(int)
    assert cells.shape == (2, 3, 3)
    red = cells[..., 0] - cells[..., 2]
    assert red[0, 0] > 2 * red[1, 2] - 2 > 50
    assert red[0, 2] < -50
    assert (red[[0, 1, 1], [1, 0, 1]] == 0).all()
    with pytest.raises(NotSupported, match="5 patches do not cover 4 x 6 pixels"):
        pictures.paint(pixels, torch.ones(5))


def test_a_picture_shows_the_class_that_is_predicted_or_asked_for(model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 70, 3), dtype=np.uint8))
    picture, shown = pictures.attention(model, image)
    x = plm_core.transform_for(model)(image)[None]
    with torch.inference_mode():
        probabilities = model(x).softmax(-1)[0]
    assert shown == {
        "class": int(probabilities.argmax()),
        "probability": pytest.approx(probabilities.max().item(), abs=1e-4),
    }
    assert picture.size == (2 * 240 + 8, 240)
    other, shown_other = pictures.attention(model, image, number=(shown["class"] + 1) % 8)
    assert shown_other["class"] != shown["class"]
    assert np.asarray(other)[:, :240].tobytes() == np.asarray(picture)[:, :240].tobytes()  # the image
    assert not np.array_equal(other, picture)
    with pytest.raises(InputError, match="number of the class is 8; it is from 0 to 7"):
        pictures.attention(model, image, number=8)
    with pytest.raises(InputError, match="image is a str; it is a PIL image"):
        pictures.attention(model, "image.png")


def test_the_command(plm, tmp_path):
    Image.new("RGB", (50, 50), "orange").save(tmp_path / "image.png")
    out = tmp_path / "out.png"
    result = plm("paint-hydra", tmp_path / "image.png", "--out", out, "--class", "2", "--json")
    (row,) = json.loads(result.out)
    assert (row["class"], row["name"]) == (2, plm_core.shapes.SHAPES[2])
    assert Image.open(out).size == (488, 240)
    options = ("--model", "test_vit", "--random", "--layers", "1", "--out", out)
    plm("paint-hydra", tmp_path / "image.png", *options)
    for wrong, message in (
        ({"model": "test_vit"}, "model 'test_vit' has no Hydra: say with --layers in which blocks"),
        ({"model": NAME, "layers": "2"}, f"model '{NAME}' has Hydra already: leave out --layers"),
        ({"out": tmp_path / "x.txt"}, "does not end in a picture format"),
        ({"layers": "9"}, "layers is 9; a number from 1 to 6"),
    ):
        words = [f"--{key}={value}" for key, value in {"out": out, "model": "test_vit", **wrong}.items()]
        result = plm("paint-hydra", tmp_path / "image.png", "--random", *words)
        assert result.code == 2
        assert message in result.err
