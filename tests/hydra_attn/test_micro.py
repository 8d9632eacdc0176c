"""The shipped micro model and its recipe."""

from dataclasses import replace

import pytest
import torch

import plm_core
from hydra_attn.api import altered_blocks
from hydra_attn.micro import shapes as micro_shapes
from plm_core import shapes, weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.utils.references import shipped_file

NAME = micro_shapes.NAME


@pytest.fixture
def declared():
    return registry().get(Model, NAME).pretrained[0]


@pytest.mark.slow
def test_score_on_held_out_data_is_the_declared_one(declared):
    model = plm_core.create_model(NAME, pretrained=True).eval()
    assert micro_shapes.evaluate(model) == pytest.approx(declared.metrics, abs=0.3)


def test_score_on_a_fifth_of_the_held_out_data(monkeypatch):
    model = plm_core.create_model(NAME, pretrained=True).eval()
    assert altered_blocks(model) == list(model.blocks[-2:])
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 400)
    assert micro_shapes.evaluate(model) == {micro_shapes.TOP1: pytest.approx(91.5, abs=0.3)}


def test_without_hydra_its_weights_are_of_little_use(monkeypatch):
    """As with weights that were trained with the softmax and are used with Hydra."""
    model = plm_core.create_model(NAME, pretrained=True, hydra_layers=0).eval()
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 200)
    assert micro_shapes.evaluate(model)[micro_shapes.TOP1] < 40


def test_file_is_small_and_its_card_tells_how_it_was_trained(declared):
    file = shipped_file(declared.file)
    assert file.stat().st_size <= 2_000_000
    card = " ".join(file.with_suffix(".md").read_text().split())
    for word in ("license: apache-2.0", "--seed 0", f"# {NAME}", f"{declared.metrics[micro_shapes.TOP1]:.2f} %"):
        assert word in card
    assert declared.labels == shapes.SHAPES


def test_recipe_writes_a_file_that_the_name_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(micro_shapes, "TRAIN", 64)
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 40)
    recipe = replace(micro_shapes.CONFIG.recipe, epochs=1, warmup_epochs=0)
    monkeypatch.setattr(micro_shapes, "CONFIG", replace(micro_shapes.CONFIG, recipe=recipe))
    scores = micro_shapes.train(tmp_path)
    model = plm_core.create_model(NAME)
    weights.load(model, tmp_path / f"{NAME}.safetensors")
    assert micro_shapes.evaluate(model) == scores


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_retraining_from_scratch_reaches_the_bound(tmp_path):
    torch.manual_seed(0)
    assert micro_shapes.train(tmp_path)[micro_shapes.TOP1] > 80
