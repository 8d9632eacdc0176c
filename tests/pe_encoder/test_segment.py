"""``plm segment``: the parts of an image that agree with texts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import plm_core
from pe_encoder import dense
from plm_core.prediction.drawing import LONGEST, colour_of, draw_regions

WORDS = ("red", "blue")
TEXT = {"context_length": 8, "width": 24, "heads": 2, "layers": 1, "output_dim": 12, "vocab_size": 6}
VISION = {
    "patch_size": 8, "width": 24, "layers": 1, "heads": 2, "output_dim": 12, "image_size": 64, "attn_pooler_heads": 2
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of a CLIP whose texts are embedded as patches of the colours that they name are."""
    torch.manual_seed(0)
    model = plm_core.create_model("pe_clip_t16_384", vision=VISION, text=TEXT, vocabulary=WORDS, img_size=64).eval()
    colours = torch.tensor([[1.0, -1, -1], [-1, -1, 1]]).view(2, 3, 1, 1).expand(2, 3, 64, 64)
    tokens = model.tokenizer()(WORDS)
    with torch.no_grad():
        meanings = dense.patch_embeddings(model, colours).mean((2, 3))
        head = model.text.head.weight
        torch.nn.init.zeros_(head)
        states = model.text.norm.register_forward_hook(lambda norm, args, output: inputs.append(output))
        inputs = []
        model.encode_text(tokens)
        states.remove()
        head.copy_(torch.linalg.lstsq(inputs[0], meanings).solution.T)
    path = tmp_path_factory.mktemp("clip")
    plm_core.weights.save_pretrained(model, path, license="mit")
    return path


@pytest.fixture
def photo(tmp_path):
    image = Image.new("RGB", (200, 100), (255, 0, 0))
    image.paste((0, 0, 255), (150, 0, 200, 100))
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_each_text_gets_its_share_of_the_area_and_a_picture(plm, folder, photo, tmp_path):
    out = tmp_path / "segments.png"
    result = plm("segment", photo, "red", "blue", "--model", folder, "--out", out, "--json", "--device", "cpu")
    assert result.code == 0, result.err
    red, blue = json.loads(result.out)
    assert red == {"text": "red", "share": pytest.approx(0.75, abs=0.15)}
    assert red["share"] + blue["share"] == pytest.approx(1, abs=1e-3)
    assert f"picture: {out}" in result.err
    assert Image.open(out).width >= 400
    finer = plm("segment", photo, "red", "blue", "--model", folder, "--out", out, "--size", "128", "--json")
    share = json.loads(finer.out)[0]["share"]
    assert share != red["share"]
    assert share == pytest.approx(0.75, abs=0.15)
    odd = plm("segment", photo, "red", "blue", "--model", folder, "--size", "100")
    assert "100 is not a multiple of the patch of 8 pixels: resize to 96 or 104" in odd.err
    assert "ragged" not in odd.err
    small = plm("segment", photo, "red", "blue", "--model", folder, "--size", "5")
    assert small.err.endswith("resize to 8\n")


def test_the_legend_has_the_texts_that_occur(plm, folder, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("pe_encoder.dense.segment", lambda *args: np.ones((100, 200), np.int64))
    out = tmp_path / "segments.png"
    assert plm("segment", photo, "red", "blue", "--model", folder, "--out", out).code == 0
    picture = np.asarray(Image.open(out))
    assert tuple(picture[-2, 2]) == colour_of(1)
    assert not (picture == colour_of(0)).all(-1).any()


@pytest.mark.parametrize("kind", ["a folder", "a video", "itself", "itself by a link"])
def test_one_image_is_needed_that_is_not_overwritten(plm, photo, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("plm_core.models.create_model", lambda *args, **options: pytest.fail("a model was created"))
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    image = {"a folder": tmp_path, "a video": tmp_path / "clip.mp4"}.get(kind, photo)
    out = {"itself": photo, "itself by a link": tmp_path / "link.png"}.get(kind, tmp_path / "out.png")
    result = plm("segment", image, "red", "blue", "--out", out)
    assert result.code == 2
    said = "would overwrite an image that is read" if "itself" in kind else f"is {kind}; one image is needed"
    assert said in result.err
    assert result.err.count("\n") == 1
    assert photo.read_bytes() == before


def test_regions_are_painted_with_a_legend():
    regions = np.zeros((60, 90), np.int64)
    regions[:, 45:] = 1
    regions[:20] = -1
    grey = Image.new("RGB", (90, 60), (128, 128, 128))
    picture = np.asarray(draw_regions(grey, regions, ["left", "right", "nowhere"])).astype(int)
    scale = round(LONGEST / 90)
    assert picture.shape == (60 * scale, 90 * scale, 3)
    assert (picture[:120] == 128).all(), "where there is no region, the picture is as it was"
    for column, number in ((22, 0), (70, 1)):
        shift = picture[30 * scale, column * scale] - 128
        assert np.dot(shift, np.array(colour_of(number)) - 128) > 0
    assert (picture[-3:, :3] == colour_of(2)).all(), "the legend names every label"
    only = np.asarray(draw_regions(grey, regions, ["left", "right", "nowhere"], absent=False)).astype(int)
    assert (only[-3:, :3] == colour_of(1)).all()
    with pytest.raises(ValueError, match=r"regions has shape \[60, 90\]; \[90, 60\] is expected"):
        draw_regions(grey.rotate(90, expand=True), regions, ["left"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("red",), "one text is given, and two or more are needed"),
        (("red", " "), "a text is empty"),
        (("red", "blue", "--out", "x.txt"), "--out 'x.txt' does not end in a picture format"),
        (("red", "blue", "--model", "pe_spatial_t16_512"), "has no text tower, which plm segment needs: the alignment"),
        (("red", "blue", "--model", "pe_lang_l14_448.fb"), "has no text tower, which plm segment needs: the alignment"),
        (("red", "blue", "--model", "pe_core_b16_224"), "it is the vision tower of pe_clip_b16_224, which has both"),
        (("red", "blue", "--model", "resnet18.a1_in1k"), "has no text tower, which plm segment needs: pe_clip_*"),
        (("red", "blue", "--model", "hiera_micro_digits"), "has no text tower, which plm segment needs: pe_clip_*"),
    ],
)
def test_what_cannot_be_segmented_is_refused_before_anything_is_loaded(plm, photo, monkeypatch, words, message):
    monkeypatch.setattr("plm_core.models.create_model", lambda *args, **options: pytest.fail("a model was created"))
    result = plm("segment", photo, *words)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
