"""The shipped micro model, its recipe, and finetuning while tokens merge."""

from dataclasses import dataclass, replace

import pytest
import torch

import plm_core
import tome
from plm_core import blocks, shapes, weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.training.finetuning import accuracy
from plm_core.utils.references import shipped_file
from tome import finetuning
from tome.experiments.merging import FINETUNE_CONFIG
from tome.finetuning import PRESETS, MergedFinetuneConfig, finetune
from tome.micro import shapes as micro_shapes
from tome.vit.tracing import trace

NAME = micro_shapes.NAME


@pytest.fixture(scope="module")
def held_out():
    return micro_shapes.scenes("heldout", 200)


@pytest.fixture(scope="module")
def trained():
    return plm_core.create_model(NAME, pretrained=True).eval()


@pytest.fixture
def declared():
    return registry().get(Model, NAME).pretrained[0]


@pytest.mark.slow
def test_score_on_held_out_data_is_the_declared_one(trained, declared):
    assert micro_shapes.evaluate(trained) == pytest.approx(declared.metrics, abs=0.3)


def test_score_on_a_fifth_of_the_held_out_data(trained, monkeypatch):
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 400)
    assert micro_shapes.evaluate(trained) == {micro_shapes.TOP1: pytest.approx(97.75, abs=0.3)}


def test_file_is_small_and_its_card_tells_how_it_was_trained(declared):
    file = shipped_file(declared.file)
    assert file.stat().st_size <= 2_000_000
    card = " ".join(file.with_suffix(".md").read_text().split())
    for word in ("license: apache-2.0", "--seed 0", f"# {NAME}", f"{declared.metrics[micro_shapes.TOP1]:.2f} %"):
        assert word in card


def test_labels_are_the_names_of_the_shapes():
    assert registry().get(Model, NAME).pretrained[0].labels == shapes.SHAPES


def test_merging_a_third_of_the_tokens_costs_a_trained_model_little(trained, held_out):
    before = accuracy(trained, held_out, batch_size=50)
    with tome.applied(trained, 8):
        assert trace(trained, held_out.x[:1]).tokens[-1] == 145 - 6 * 8
        assert accuracy(trained, held_out, batch_size=50) > before - 3
    with tome.applied(trained, 40):  # as many as can merge
        assert accuracy(trained, held_out, batch_size=50) < before - 3


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_merges_as_well(trained, held_out, dtype):
    with tome.applied(trained, 8), torch.autocast("cpu", dtype=dtype):
        half = accuracy(trained, held_out, batch_size=50)
    with tome.applied(trained, 8):
        assert half == pytest.approx(accuracy(trained, held_out, batch_size=50), abs=1.5)


def test_finetuning_while_merging_learns_and_keeps_merging(held_out):
    torch.manual_seed(0)
    model = plm_core.create_model(NAME, pretrained=True)
    before = [p.clone() for p in model.parameters()]
    config = replace(FINETUNE_CONFIG, recipe=replace(FINETUNE_CONFIG.recipe, epochs=1, batch_size=32))
    data = micro_shapes.scenes("train", 96)
    trained = finetune(model, data, MergedFinetuneConfig(**vars(config), r=24), 8, seed=0)
    assert trace(model, held_out.x[:1]).tokens[0] == 145 - 24
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert trained.history[-1]["loss"] > 0
    assert not any(isinstance(block, blocks.Patched) for block in tome.remove(model).blocks)


def test_recipe_writes_a_file_that_the_name_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(micro_shapes, "TRAIN", 64)
    monkeypatch.setattr(micro_shapes, "HELD_OUT", 40)
    recipe = replace(micro_shapes.CONFIG.recipe, epochs=1, warmup_epochs=0)
    monkeypatch.setattr(micro_shapes, "CONFIG", replace(micro_shapes.CONFIG, recipe=recipe))
    scores = micro_shapes.train(tmp_path)
    model = plm_core.create_model(NAME)
    weights.load(model, tmp_path / f"{NAME}.safetensors")
    assert micro_shapes.evaluate(model) == scores


def test_the_papers_recipes_are_those_of_the_models_without_merging():
    mae = finetuning.PAPER["mae_base_r16"]
    assert mae.recipe.lr == 1e-3 * mae.recipe.batch_size / 256
    assert (mae.r, mae.unmerge) == (16, None)
    deit = finetuning.PAPER["deit_small_r13"]
    assert deit.recipe.lr == 5e-4 * deit.recipe.batch_size / 512


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_retraining_from_scratch_reaches_the_bound(tmp_path):
    assert micro_shapes.train(tmp_path)[micro_shapes.TOP1] > 80


@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_of_a_finetuning_reach_the_model(name, monkeypatch):
    config, reached = PRESETS[name], []
    monkeypatch.setattr(finetuning, "plain_finetune", lambda *args, **options: reached.append((args, options)))
    monkeypatch.setattr(finetuning, "train_classifier", lambda job: reached.append(job.transforms))
    model = plm_core.create_model("tome_micro_shapes")
    finetuning.finetune(model, "data", config, 6, seed=5)
    forwards = [blocks.patched_by(block) for block in model.blocks]
    assert {(f.schedule, f.unmerge) for f in forwards} == {((config.r,) * 6, False)}  # it answers by its class token
    assert reached == [((model, "data", config, 6), {"seed": 5})]
    finetuning.run(Asked(config, ("other:x=1",)))
    assert reached[1] == ("other:x=1", f"tome:r={config.r}")


@dataclass(frozen=True)
class Asked:
    """The parts of a `Job` that the recipe reads."""

    config: finetuning.MergedFinetuneConfig
    transforms: tuple[str, ...]
