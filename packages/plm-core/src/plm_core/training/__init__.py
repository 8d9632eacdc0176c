"""One way to train any model: a recipe, a loss and data, driven by transformers' Trainer.

`plm_core.runs` builds on this: it trains by declared recipes, from data to a model folder.

This package covers what papers state: peak learning rate, warm-up, decay, layer-wise rates, batch size and losses. The
Trainer and accelerate provide the loop, mixed precision, gradient accumulation, checkpoints, and DDP and FSDP (run the
same script under ``torchrun``). Training needs the extra ``plm-core[train]``.

    recipe = Recipe(epochs=10, batch_size=256, lr=1e-3, warmup_epochs=1)
    result = fit(model, data, lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]), recipe)

- ``recipe``: the optimisation, as data.
- ``loop``: `fit`, which trains a model by a recipe.
- ``arguments``: the Trainer's settings that follow from a recipe.
- ``callbacks``: callbacks that steer the Trainer.
- ``checks``: types and ranges of settings and options.
- ``checkpoints``: the folder of a training and its checkpoints.
- ``curve``: the history as a table and as a picture.
- ``display``: the progress on stderr, with the pace that ``pace`` measures.
- ``evaluation``: evaluation in the middle of a training.
- ``gathering``: the samples of all processes, for a loss over the whole batch.
- ``history``: the logged values by step.
- ``interruption``: Ctrl-C and SIGTERM.
- ``overrides``: changes to a configuration, written as text such as ``epochs=100``.
- ``seeding``: random streams for samples.
- ``trainer``: transformers' Trainer, driven by a recipe.
- ``finetuning``: supervised training of classifiers.
- ``micro``: the shared parts of the recipes of micro models.
"""

from plm_core.training.checkpoints import newest_checkpoint
from plm_core.training.loop import TrainResult, fit
from plm_core.training.recipe import Loss, Recipe, parameter_groups
from plm_core.training.seeding import seeded

__all__ = [
    "Loss",
    "Recipe",
    "TrainResult",
    "fit",
    "newest_checkpoint",
    "parameter_groups",
    "seeded",
]
