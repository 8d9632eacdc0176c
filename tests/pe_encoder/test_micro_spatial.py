"""The shipped micro model of the spatial alignment, and its recipe."""

from dataclasses import replace

import pytest
import torch

import plm_core
from pe_encoder.micro import spatial as micro_spatial
from plm_core.hookspecs import Model
from plm_core.registry import registry

NAME = micro_spatial.NAME


@pytest.fixture(scope="module")
def declared():
    return registry().get(Model, NAME).pretrained[0]


@pytest.mark.slow
def test_scores_on_held_out_data_are_the_declared_ones(declared):
    model = plm_core.create_model(NAME, pretrained=True)
    assert micro_spatial.evaluate(model) == pytest.approx(declared.metrics, abs=0.3)


def test_the_alignment_has_helped_the_shipped_model(monkeypatch):
    """By the objects; the gain by colours is too small for a part of the data to show it."""
    monkeypatch.setattr(micro_spatial, "PROBED", 400)
    monkeypatch.setattr(micro_spatial, "HELD_OUT", 200)
    before = micro_spatial.evaluate(micro_spatial.core_tower(micro_spatial.CORE))
    after = micro_spatial.evaluate(plm_core.create_model(NAME, pretrained=True))
    assert after[micro_spatial.OBJECTS] > before[micro_spatial.OBJECTS] + 1


def test_samples_bring_the_masks_of_their_objects_along():
    scenes = micro_spatial.scenes("train", 6)
    data = micro_spatial.Masked(scenes)
    for index in range(6):
        image, masks = data[index]
        assert image.shape == (3, 48, 48)
        assert (masks.sum(0) == 1).all(), "each pixel is of one object or the background"
        assert (masks[1:].flatten(1).any(1)).sum() == len(scenes[index].objects)
        flipped = not torch.equal(image, data.images[index])
        assert torch.equal(masks, data.masks[index].flip(-1) if flipped else data.masks[index])


def test_the_recipe_writes_weights_and_a_card_with_both_scores(monkeypatch, tmp_path):
    monkeypatch.setattr(micro_spatial, "TRAIN", 8)
    monkeypatch.setattr(micro_spatial, "PROBED", 20)
    monkeypatch.setattr(micro_spatial, "HELD_OUT", 10)
    recipe = replace(micro_spatial.CONFIG.recipe, epochs=1, batch_size=8, warmup_epochs=0)
    monkeypatch.setattr(micro_spatial, "CONFIG", replace(micro_spatial.CONFIG, recipe=recipe))
    scores = micro_spatial.train(tmp_path, seed=0)
    card = (tmp_path / f"{NAME}.md").read_text()
    for score in scores.values():
        assert f"{score:.1f} after" in " ".join(card.split())
    plm_core.weights.load(plm_core.create_model(NAME), tmp_path / f"{NAME}.safetensors")
