"""The measurements behind the README: probes, scores, and both of them on a tiny CLIP."""

import json

import pytest
import torch
from PIL import Image

import plm_core
from pe_encoder.experiments import __main__ as command
from pe_encoder.experiments import dense, layers, probes
from plm_core.shapes import COLOURS, SHAPES

WORDS = ("a", "photo", "of", *COLOURS, *SHAPES)
TEXT = {
    "context_length": 8, "width": 16, "heads": 2, "layers": 1, "output_dim": 12, "vocab_size": len(WORDS) + 4
}  # fmt: skip
VISION = {
    "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "output_dim": 12, "image_size": 48, "attn_pooler_heads": 2
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return plm_core.create_model("pe_clip_t16_384", vision=VISION, text=TEXT, vocabulary=WORDS, img_size=48).eval()


def test_a_probe_finds_what_is_linear_and_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(600, 5) * torch.tensor([1.0, 10, 0.1, 1, 1]) + 3
    linear = ((x[:, 0] - 3) + (x[:, 1] - 3) / 10 > 0).long()
    assert probes.accuracy((x[:400], linear[:400]), (x[400:], linear[400:]), 2) > 0.97
    noise = torch.randint(2, (600,))
    assert probes.accuracy((x[:400], noise[:400]), (x[400:], noise[400:]), 2) < 0.65


def test_shares_and_scores_by_hand():
    regions = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 1]]])
    shares = probes.shares(regions, (1, 2), 3)
    torch.testing.assert_close(shares, torch.tensor([[[0.75, 0, 0.25], [0, 1, 0]]]))
    predicted = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 0]]])
    assert probes.iou(predicted, regions, 4) == pytest.approx((3 / 5 + 3 / 4 + 0) / 3), "a class that is nowhere is out"


def test_features_that_are_the_shapes_are_segmented_up_to_the_patches():
    scenes = probes.draw("train", 60, 48)
    regions = probes.regions_of(scenes, probes.shape_of)
    assert (regions > 0).any((1, 2)).all()
    features = probes.shares(regions, (6, 6), 9)
    known = (features[:40], regions[:40]), (features[40:], regions[40:])
    assert probes.segmentation(*known, (6, 6), 9) > 0.3
    noise = torch.randn(60, 36, 9)
    assert probes.segmentation((noise[:40], regions[:40]), (noise[40:], regions[40:]), (6, 6), 9) < 0.15


def test_every_way_to_embed_patches_is_measured(model):
    rows = dense.measure(model, scenes=4)
    assert [row["way"] for row in rows] == ["projection alone", *["pool"] * 7]
    assert [row["window"] for row in rows][:4] == [1, 1, 3, 5]
    assert [row["last"] for row in rows][4:] == ["self", "value", "own", "skip"]
    for row in rows:
        assert all(0 <= row[name] <= 100 for name in ("colours", "shapes", "objects", "with background"))
    assert len({row["objects"] for row in rows}) > 4


def test_layers_are_measured_and_plotted(model, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "create_model", lambda *args, **options: model)
    measured = layers.measure(model, train=40, heldout=20)
    monkeypatch.setitem(command.MEASURES, "layers", lambda model: measured)
    command.main(["layers", "--out", str(tmp_path), "--threads", "1"])
    rows = json.loads((tmp_path / "layers.json").read_text())
    assert [row["layer"] for row in rows] == [1, 2, "ceiling"]
    assert all(0 <= row[task] <= 100 for row in rows[:2] for task in layers.TASKS)
    for task in layers.SEGMENTED:
        assert rows[-1][task] > max(row[task] for row in rows[:2])
    assert Image.open(tmp_path / "layers.png").width > 500
    with pytest.raises(SystemExit):
        command.main(["depth", "--out", str(tmp_path)])


def test_pictures_are_written(model, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "create_model", lambda *args, **options: model)
    command.main([*command.PICTURES, "--out", str(tmp_path), "--threads", "1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.png", "textmap.png", "zeroshot.png"]
    assert all(Image.open(path).width > 400 for path in tmp_path.iterdir())
