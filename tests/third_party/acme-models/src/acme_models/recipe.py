"""A training without labels: the model learns by how many quarter turns an image was rotated (arXiv 1803.07728)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from plm_core import transform_for
from plm_core.datasets import Pictures, load_dataset
from plm_core.runs import Trained
from plm_core.training import Recipe, fit


@dataclass(frozen=True, kw_only=True)
class TurnsConfig:
    """The settings that `--set` changes: those of the optimisation, and our own."""

    recipe: Recipe
    smoothing: float = 0.0


CONFIGS = {"default": TurnsConfig(recipe=Recipe(epochs=10, batch_size=16, lr=1e-3, warmup_epochs=1))}


def run(job):
    """Train a model to tell four rotations apart; `job` says what the user asked for."""
    model = job.create(num_classes=4)
    images = load_dataset(job.data)

    def loss(model, batch):
        x = torch.cat([batch[0].rot90(turns, (2, 3)) for turns in range(4)])
        turns = torch.arange(4, device=x.device).repeat_interleave(len(batch[0]))
        return F.cross_entropy(model(x), turns, label_smoothing=job.config.smoothing)

    result = fit(model, Pictures(images, transform_for(model)), loss, job.config.recipe, **job.options)
    if not result.main:  # one process of several writes the folder
        return None
    return Trained(
        model=job.rebuild(result.state, num_classes=4),
        labels=("upright", "90 degrees", "180 degrees", "270 degrees"),
        history=result.history,
        data=f"{len(images)} images, each in four rotations",
    )
