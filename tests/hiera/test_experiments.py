"""The measurements behind the README's tables run, and compare the models that they claim to compare."""

from dataclasses import replace

import torch

import plm_core
from hiera.experiments import abswin, pretraining
from hiera.micro import abswin as recipe
from hiera.micro import shapes
from plm_core import samples, weights


@torch.inference_mode()
def test_frozen_positions_are_the_same_function_at_the_trained_size_only():
    fix = plm_core.create_model(recipe.NAME, pretrained=True).eval()
    bug = abswin.frozen(fix).eval()
    own, twice = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(bug(own), fix(own), rtol=1e-4, atol=1e-5)
    assert (bug(twice) - fix(twice)).abs().max() > 0.05


def test_abs_win_measurement_runs(monkeypatch):
    """Run on very little data, and check the rows, the table and the plot."""
    images, labels = samples.digits("train")
    few = {"train": (images[:128], labels[:128]), "heldout": (images[128:218], labels[128:218])}
    monkeypatch.setattr(samples, "digits", few.get)
    for name, value in {"EPOCHS": 1.0, "FINETUNED": (1.0,), "SIZES": (32, 64)}.items():
        monkeypatch.setattr(abswin, name, value)
    rows = abswin.measure([0])
    table = abswin.summary(rows)
    assert [row["positions"] for row in table] == [abswin.PLAIN, abswin.BUG, abswin.FIX]
    by_name = {row["positions"]: row for row in rows}
    assert by_name[abswin.BUG]["32 px"] == by_name[abswin.FIX]["32 px"]
    assert len(abswin.plot(rows).axes[0].lines) == 4


def test_pretraining_is_compared_with_none(monkeypatch, tmp_path):
    """Run on very little data. Both models start from the same weights, only one is pretrained, and one is written."""
    for module, labelled in ((shapes, 96), (pretraining, (64, 96))):
        for name, value in {"UNLABELLED": 96, "LABELLED": labelled, "HELD_OUT": 40}.items():
            monkeypatch.setattr(module, name, value)
    for name in ("PRETRAINING", "FINETUNING"):
        config = getattr(shapes, name)
        short = replace(config.recipe, epochs=1, warmup_epochs=0)
        monkeypatch.setattr(shapes, name, replace(config, recipe=short))
    rows = pretraining.measure([0])
    assert [row["labelled"] for row in rows] == [64, 96]
    assert rows[0].keys() == {"seed", "labelled", "from scratch", "pretrained"}
    assert len(pretraining.plot(rows).axes[0].lines) == 3
    start, again = (shapes.masked_autoencoder(0).state_dict() for _ in range(2))
    assert all(torch.equal(start[key], again[key]) for key in start)
    trained = shapes.pretrained(shapes.scenes("train", 64)[0], 0).state_dict()
    assert not torch.equal(start["blocks.0.attn.qkv.weight"], trained["blocks.0.attn.qkv.weight"])
    scores = shapes.train(tmp_path)
    model = plm_core.create_model(shapes.NAME)
    weights.load(model, tmp_path / f"{shapes.NAME}.safetensors")
    assert shapes.evaluate(model) == scores
