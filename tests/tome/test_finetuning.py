"""Training with Token Merging: the schedule of a recipe reaches the model, and the rest reaches the plain training."""

from pathlib import Path

import pytest
from torch import nn

from plm_core.runs import Job
from plm_core.training import Recipe
from plm_core.transforms import parse
from tome import finetuning
from tome.finetuning import MergedFinetuneConfig

RECIPE = Recipe(epochs=1, batch_size=8, lr=1e-3)


@pytest.mark.parametrize("unmerge", [None, False, True, "last"])
@pytest.mark.parametrize("r", [5, (4, -1.0), [3, 0, 2, 1]])
def test_the_schedule_of_a_recipe_reaches_the_model(monkeypatch, r, unmerge):
    calls = []
    monkeypatch.setattr(finetuning, "remove", lambda model: calls.append(("remove", model)))
    monkeypatch.setattr(finetuning, "apply", lambda *args, **options: calls.append(("apply", args, options)))
    monkeypatch.setattr(finetuning, "plain_finetune", lambda *args, **options: calls.append((args, options)))
    monkeypatch.setattr(finetuning, "train_classifier", lambda job: job)
    config = MergedFinetuneConfig(recipe=RECIPE, r=r, unmerge=unmerge)
    model, data = nn.Identity(), object()
    finetuning.finetune(model, data, config, 3, seed=4)
    assert calls == [
        ("remove", model),
        ("apply", (model, r), {"unmerge": unmerge}),
        ((model, data, config, 3), {"seed": 4}),
    ]
    job = Job(recipe="tome-finetune", data="x", out=Path("y"), model="z", preset="w", config=config, transforms=("a",))
    first, merging = finetuning.run(job).transforms
    assert first == "a"
    name, options = parse(merging)
    assert name == "tome"
    assert {"unmerge": None, **options} == {"r": r, "unmerge": unmerge}
