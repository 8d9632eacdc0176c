"""Pictures and boxes in, points out."""

import numpy as np
import pytest
import torch
from PIL import Image

import gazelle
import plm_core
from gazelle.estimation import Estimator, peak, preprocess_of


def test_the_peak_is_a_corner_or_a_centre_of_mass():
    heatmap = np.zeros((4, 8), np.float32)
    heatmap[2, 5] = 0.6
    assert peak(heatmap, subpixel=False) == (5 / 8, 2 / 4)
    assert peak(heatmap) == (5.5 / 8, 2.5 / 4)
    heatmap[2, 6] = 0.3
    assert peak(heatmap) == pytest.approx(((5.5 + 1 / 3) / 8, 2.5 / 4))
    assert peak(np.zeros((4, 8), np.float32)) == (0.5 / 8, 0.5 / 4)
    edge = np.zeros((4, 8), np.float32)
    edge[3, 7] = 1
    assert peak(edge) == (7.5 / 8, 3.5 / 4)


def test_a_picture_is_encoded_once(model, monkeypatch):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    estimator = Estimator(model)
    box = (0.1, 0.1, 0.4, 0.5)
    looks = estimator(picture, [box, None])
    scene = estimator.encode(np.asarray(picture))
    assert scene.size == (90, 60)
    monkeypatch.setattr(model.backbone, "forward", pytest.fail)
    again = estimator.look(scene, [None, box])
    assert [look.box for look in again] == [None, box]
    assert again[1].point == looks[0].point
    np.testing.assert_array_equal(again[0].heatmap, looks[1].heatmap)
    with torch.no_grad():
        gaze = model.decode(scene.features, [[box]])
    np.testing.assert_allclose(looks[0].heatmap, gaze["heatmap"][0][0].numpy(), atol=1e-6)
    assert looks[0].inside == pytest.approx(gaze["inout"][0].item(), abs=1e-6)
    assert looks[0].score == pytest.approx(looks[0].heatmap.max())
    assert all(0 <= side <= 1 for side in looks[0].point)


def test_pixels_are_scaled_as_the_backbone_was_trained():
    model = gazelle.GazeLLE("pe_micro_spatial", dim=16, num_layers=1, in_size=48)
    assert preprocess_of(model).mean == (0.5, 0.5, 0.5)
    named = plm_core.create_model("gazelle_micro_shapes", backbone="pe_micro_spatial", img_size=48)
    assert preprocess_of(named).mean == (0.5, 0.5, 0.5)
    released = plm_core.create_model("gazelle_micro_shapes", backbone="test_vit", img_size=96)
    assert preprocess_of(released).mean == tuple(released.backbone.model.pretrained_cfg["mean"])
    plain = gazelle.GazeLLE("test_convnext", dim=16, num_layers=1, in_size=96, out_size=(8, 8))
    assert preprocess_of(plain).size == (96, 96)
