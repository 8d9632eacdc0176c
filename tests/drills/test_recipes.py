"""Hostile settings: each field of each recipe's config, and each option of `fit`, is right or refused in one line."""

import dataclasses
import inspect
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from plm_core.errors import InputError
from plm_core.hookspecs import Training
from plm_core.registry import registry
from plm_core.training import Recipe, fit
from plm_core.training.overrides import override
from plm_core.utils.references import resolve

NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
    0,
    1e308,
    -1e308,
    5e-324,
    10**30,
    2.5,
    True,
    np.float32(1),
    np.int64(2),
)
THINGS = (
    None,
    "",
    "x",
    "SGD",
    "Cosine",
    "float16",
    "a\nb\x1b[31m",
    b"adamw",
    [],
    {},
    (),
    (0.9,),
    (math.nan, 1),
    ((),),
    object(),
)
THINGS += (torch.tensor(1.0), torch.nn, lambda: 1, [0.9, 0.99], (0.5, "1"), (1, 0), (-1, 2), (0.5,) * 99, "x" * 100_000)
HOSTILE = NUMBERS + THINGS


def configs():
    """Return one config of each class, and the recipe in it."""
    presets = [config for spec in registry().declared(Training) for config in resolve(spec.configs).values()]
    return [presets[0].recipe, *{type(config): config for config in presets}.values()]


def sane(value):
    """Return whether a setting is of plain data, and its numbers are finite."""
    if isinstance(value, tuple | list):  # a list is a schedule of Token Merging
        return all(map(sane, value))
    return (
        value is None or isinstance(value, str | bool | int | Recipe) or (type(value) is float and math.isfinite(value))
    )


@pytest.mark.trials(short=1500, long=100_000)
def test_settings(drill, trials):
    rng = random.Random(trials)
    fields = [(config, field.name) for config in configs() for field in dataclasses.fields(config)]
    cases = [(config, name, value) for config, name in fields for value in HOSTILE]
    for _ in range(trials):
        config, name, value = rng.choice(cases)
        case = f"{type(config).__name__}({name}={str(value)[:30]!r})"
        if isinstance(value, str) or rng.random() < 0.5:
            action = lambda: override(config, {name: str(value)}, say=str)  # noqa: B023, E731
        else:
            action = lambda: dataclasses.replace(config, **{name: value})  # noqa: B023, E731
        changed = drill.attempt(case, action)
        if isinstance(changed, type(config)):
            drill.expect(case, all(sane(getattr(changed, f.name)) for f in dataclasses.fields(changed)), "is taken")
            recipe = getattr(changed, "recipe", changed)
            factors = [recipe.lr_factor(step, 20) for step in range(20)]
            drill.expect(case, all(0 <= factor <= 1 for factor in factors), factors)
            drill.expect(
                case, recipe.optimizer in ("adamw", "sgd", "lamb") and recipe.schedule in ("cosine", "steps"), recipe
            )


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(2), index % 2


def train(**changes):
    arguments = {
        "model": nn.Linear(2, 2),
        "data": Data(),
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        "recipe": Recipe(epochs=1, batch_size=4, lr=1e-2),
        "show": False,
    }
    return fit(**(arguments | changes))


@pytest.mark.trials(short=16, long=2000)
def test_options_of_fit(drill, trials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text is a folder
    rng = random.Random(trials)
    names = [
        name for name in inspect.signature(fit).parameters if name not in ("callbacks", "collate", "evaluate", "show")
    ]
    for _ in range(trials):
        name, value = rng.choice(names), rng.choice(HOSTILE)
        if name == "num_workers" and isinstance(value, int) and value > 1:
            continue  # so many processes may be wanted
        case = f"fit({name}={str(value)[:30]!r})"
        answer = drill.attempt(case, lambda: train(**{name: value}))  # noqa: B023
        if not isinstance(answer, Exception):
            drill.expect(case, answer.history[-1]["step"] >= 1, "no step was taken")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"optimizer": "SGD"}, "optimizer 'SGD' is not allowed: 'adamw', 'lamb' or 'sgd' is"),
        ({"schedule": "Steps"}, "schedule 'Steps' is not allowed: 'cosine' or 'steps' is"),
        ({"warmup_epochs": -1}, "warmup_epochs -1 is not allowed: 0 or more is"),
        ({"clip_grad": math.nan}, "clip_grad nan is not allowed: None or more than 0 is"),
        ({"lr": math.inf}, "lr inf is not allowed: a finite number is"),
        ({"batch_size": 8.0}, "batch_size 8.0 is not allowed: int is"),
    ],
)
def test_a_misspelt_recipe_is_refused(setting, said):
    with pytest.raises(InputError) as caught:
        Recipe(**{"epochs": 1, "batch_size": 8, "lr": 1e-3, **setting})
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"precision": "float16"}, "precision 'float16' is not allowed: 'fp32', 'bf16' or 'fp16' is"),
        ({"max_steps": 0}, "max_steps 0 is not allowed: 1 or more is"),
        ({"save_steps": -1}, "save_steps -1 is not allowed: 1 or more is"),
        ({"save_steps": math.nan}, "save_steps nan is not allowed: int is"),
        ({"per_device_batch_size": 0}, "per_device_batch_size 0 is not allowed: 1 or more is"),
        ({"seed": -1}, "seed -1 is not allowed: a whole number from 0 to 4294967295 is"),
        ({"model": None}, "model None is not allowed: Module is"),
        ({"data": None}, "data None is not allowed: a dataset with a length is"),
        ({"loss": "mse"}, "loss 'mse' is not allowed: a function is"),
        ({"recipe": {}}, "recipe {} is not allowed: Recipe is"),
    ],
)
def test_an_option_of_fit_is_refused_before_anything_is_written(option, said, tmp_path):
    with pytest.raises(InputError) as caught:
        train(out=tmp_path / "out", **option)
    assert str(caught.value) == said
    assert not (tmp_path / "out").exists()
