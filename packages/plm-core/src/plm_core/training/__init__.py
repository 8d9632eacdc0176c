"""One way to train any model: a recipe, a loss and data, driven by transformers' Trainer.

What is ours is what papers state: peak rate, warm-up, decay, layer-wise rates, batch size, losses. Loop, mixed
precision, gradient accumulation, checkpoints, DDP and FSDP (run the same script under ``torchrun``) are the Trainer's
and accelerate's. It needs the extra ``plm-core[train]``.

    recipe = Recipe(epochs=10, batch_size=256, lr=1e-3, warmup_epochs=1)
    result = fit(model, data, lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]), recipe)

- ``recipe``: how a training optimises, as data.
- ``loop``: `fit`, which runs it.
- ``seeding``: samples that draw from a random stream of their own.
- ``trainer``: transformers' Trainer under a recipe.
- ``finetuning``: supervised training of classifiers.
- ``micro``: what the recipes of micro models share.
"""

from plm_core.training.loop import TrainResult, fit, newest_checkpoint
from plm_core.training.recipe import Loss, Recipe, parameter_groups
from plm_core.training.seeding import seeded

__all__ = ["Loss", "Recipe", "TrainResult", "fit", "newest_checkpoint", "parameter_groups", "seeded"]
