"""The commands that come next: after a ranking a probe of the best models, and then a fine-tuning of the best one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plm_core.hookspecs import Model, Training
from plm_core.registry import registry
from plm_core.utils.arguments import RANDOM

if TYPE_CHECKING:
    from parc.probing import Probing
    from parc.ranking import Ranking

MOST = 3
"""Number of models of a ranking to probe."""
UNTRAINED = "next: rank pretrained models; random weights say little about what a fine-tuning would reach"


def after_ranking(dataset: str, ranking: Ranking) -> str | None:
    """Return the lines that name the next commands, each a command of its own; None if no model has a score.

    If the models with a score have random weights only, the line says that there is no next command.
    """
    first = ranking.methods[0]
    scored = [model for model in ranking.models if ranking.of(model)[first].score is not None]
    best = _trained(scored)
    if not best:
        return UNTRAINED if scored else None
    probed = shlex.join(["plm", "probe", dataset, "--models", ",".join(best[:MOST]), *_options(ranking.about)])
    return "\n  or: ".join([f"next: {probed}", *_finetuning(dataset, ranking.about, best)])


def after_probing(dataset: str, probing: Probing) -> str | None:
    """Return the line that names the next command, or None if no pretrained model has an accuracy or can be trained."""
    best = _trained([model for model in probing.models if probing.of(model)[0].accuracy is not None])
    return next((f"next: {command}" for command in _finetuning(dataset, probing.about, best)), None)


def _trained(models: Sequence[str]) -> list[str]:
    """Leave out models with random weights, since nothing is gained by a fine-tuning from these."""
    return [model for model in models if not model.startswith(RANDOM)]


def _options(about: Mapping[str, Any]) -> list[str]:
    """Return the options of a command that its next ones need too: they read the same data."""
    return ["--skip-unreadable"] if about.get("skip_unreadable") else []


def _finetuning(dataset: str, about: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    """Return the command that fine-tunes the first model that a recipe can train, or nothing if there is none.

    Recipes train models with timm's interface, not those of other libraries.
    """
    for model in models:
        if model.lower().startswith(("torchvision:", "transformers:")):
            continue
        if recipe := "finetune" if about["kind"] == "images" else _video_recipe(model):
            words = ["--model", model, "--out", _free_folder(model), *_options(about)]
            return [shlex.join(["plm", "train", recipe, dataset, *words])]
    return []


def _video_recipe(model: str) -> str | None:
    """Return the recipe that trains a video model by its name, and starts from its pretrained weights."""
    name = model.partition(".")[0]
    entry = registry().all(Model).get(name)
    if entry is None or entry.declaration.input.frames is None:
        return None
    for recipe in registry().declared(Training):
        fits = any(fnmatchcase(name, pattern) for pattern in recipe.presets)
        if fits and recipe.data == "videos" and "pretrained" in recipe.options:
            return recipe.name
    return None


def _free_folder(model: str) -> str:
    """Return a folder for the training of a model: one that is not there yet."""
    name = model.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return next(folder for folder in (f"runs/{name}{f'-{n}' * (n > 1)}" for n in count(1)) if not Path(folder).exists())
