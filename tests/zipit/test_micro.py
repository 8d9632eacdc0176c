"""The shipped micro models, their recipe, and the stop of the tour that merges them."""

from dataclasses import replace

import pytest

import plm_core
from plm_core import weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.tools.tour import Tour
from plm_core.utils.references import shipped_file
from zipit import tour as stops
from zipit.micro import shapes as micro_shapes


@pytest.mark.parametrize("which", [0, 1])
def test_score_on_held_out_data_is_the_declared_one(which, monkeypatch):
    name = micro_shapes.NAMES[which]
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 300)
    declared = registry().get(Model, name).pretrained[0]
    scores = micro_shapes.evaluate(plm_core.create_model(name, pretrained=True).eval(), which)
    assert scores[micro_shapes.TOP1] == pytest.approx(declared.metrics[micro_shapes.TOP1], abs=0.5)
    assert declared.labels == micro_shapes.TASKS[which]


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_score_on_all_held_out_data_is_the_declared_one(which):
    name = micro_shapes.NAMES[which]
    scores = micro_shapes.evaluate(plm_core.create_model(name, pretrained=True).eval(), which)
    assert scores == pytest.approx(registry().get(Model, name).pretrained[0].metrics, abs=0.1)


@pytest.mark.parametrize("name", micro_shapes.NAMES)
def test_file_is_small_and_its_card_tells_how_it_was_trained(name):
    declared = registry().get(Model, name).pretrained[0]
    file = shipped_file(declared.file)
    assert file.stat().st_size <= 2_000_000
    card = " ".join(file.with_suffix(".md").read_text().split())
    for word in ("license: apache-2.0", "--seed ", f"# {name}", f"{declared.metrics[micro_shapes.TOP1]:.2f} %"):
        assert word in card


def test_recipe_writes_a_file_that_the_name_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(micro_shapes, "TRAIN", 40)
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 20)
    recipe = replace(micro_shapes.CONFIG.recipe, epochs=1, batch_size=16, warmup_epochs=0)
    monkeypatch.setattr(micro_shapes, "CONFIG", replace(micro_shapes.CONFIG, recipe=recipe))
    scores = micro_shapes.train_b(tmp_path)
    model = plm_core.create_model(micro_shapes.NAMES[1])
    weights.load(model, tmp_path / f"{micro_shapes.NAMES[1]}.safetensors")
    assert micro_shapes.evaluate_b(model) == scores


def test_a_model_has_not_seen_the_shapes_of_the_other():
    for shapes in micro_shapes.TASKS:
        images, labels = micro_shapes.scenes("heldout", 60, shapes)
        assert labels.unique().tolist() == [0, 1, 2, 3]
        assert 20 < len(images) < 40
    assert not set(micro_shapes.TASKS[0]) & set(micro_shapes.TASKS[1])


def test_the_stop_finds_the_order_of_the_paper():
    tour = Tour()
    stops.stop(tour)
    assert "".join(tour.parts).count("data:image/png;base64,") == 1
    both, zipped = (int(word) for word in next(iter(tour.facts.values())).split(" and "))
    assert both > zipped > 50
