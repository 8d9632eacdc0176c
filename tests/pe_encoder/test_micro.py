"""The shipped micro model and its recipe."""

from dataclasses import replace

import pytest
import torch

import plm_core
from pe_encoder.micro import clip as micro_clip
from plm_core import shapes, weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.utils.references import shipped_file

NAME = micro_clip.NAME


@pytest.fixture
def declared():
    return registry().get(Model, NAME).pretrained[0]


@pytest.fixture(scope="module")
def model():
    return plm_core.create_model(NAME, pretrained=True).eval()


@pytest.mark.slow
def test_scores_on_held_out_data_are_the_declared_ones(declared, model):
    assert micro_clip.evaluate(model) == pytest.approx(declared.metrics, abs=0.3)


def test_scores_on_a_part_of_the_held_out_data(model, declared, monkeypatch):
    monkeypatch.setattr(micro_clip, "HELD_OUT", 120)
    scores = micro_clip.evaluate(model)
    assert scores[micro_clip.RETRIEVAL] == pytest.approx(declared.metrics[micro_clip.RETRIEVAL], abs=0.3)
    assert scores[micro_clip.ZERO_SHOT] == pytest.approx(declared.metrics[micro_clip.ZERO_SHOT], abs=5)


def test_no_training_scene_has_an_unseen_pair():
    captions = micro_clip.Scenes("train", 80, (1, 4), micro_clip.seen).captions
    unseen = {f"{colour} {shape}" for shape, colour in micro_clip.UNSEEN}
    assert not [text for texts in captions for text in texts if any(pair in text for pair in unseen)]
    words = {word.strip(",") for texts in captions for text in texts for word in text.split()}
    assert words >= {*shapes.SHAPES, *shapes.COLOURS}
    assert words <= set(plm_core.create_model(NAME).vocabulary)
    assert len(set(micro_clip.CLASSES)) == 80
    assert unseen < set(micro_clip.CLASSES)


def test_captions_name_less_and_less():
    [(own, short, least)] = micro_clip.Scenes("heldout", 1, (3, 3), lambda scene: True).captions
    for word in shapes.SIZES:
        own = own.replace(f"{word} ", "")
    assert short == f"a photo of {own}"
    for word in shapes.COLOURS:
        short = short.replace(f"{word} ", "")
    assert least == short
    assert least.count("a ") == 4


def test_file_is_small_and_its_card_tells_how_it_was_trained(declared):
    file = shipped_file(declared.file)
    assert file.stat().st_size <= 2_000_000
    card = " ".join(file.with_suffix(".md").read_text().split())
    words = ["license: apache-2.0", "--seed 0", f"# {NAME}", *(f"{score:.2f} %" for score in declared.metrics.values())]
    assert not [word for word in words if word not in card]


def test_recipe_writes_a_file_that_the_name_loads(tmp_path, monkeypatch):
    for name, count in {"LARGE": 24, "MIXED": 24, "HELD_OUT": 20, "CAPTIONS": 20}.items():
        monkeypatch.setattr(micro_clip, name, count)
    recipe = replace(micro_clip.CONFIG.recipe, epochs=1, batch_size=16, warmup_epochs=0)
    monkeypatch.setattr(micro_clip, "CONFIG", replace(micro_clip.CONFIG, recipe=recipe))
    scores = micro_clip.train(tmp_path)
    model = plm_core.create_model(NAME)
    weights.load(model, tmp_path / f"{NAME}.safetensors")
    assert micro_clip.evaluate(model) == scores


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_retraining_from_scratch_reaches_the_bounds(tmp_path):
    torch.manual_seed(0)
    scores = micro_clip.train(tmp_path)
    assert scores[micro_clip.ZERO_SHOT] >= 90
    assert scores[micro_clip.RETRIEVAL] >= 80
