"""The recipe of ``hiera_micro_digits``, a Hiera of 0.2M parameters that reads scikit-learn's digits.

``plm retrain hiera_micro_digits --out DIR`` runs `train`, which takes half a minute on two cores. It needs the extra
``hiera[train]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import plm_core
from hiera.configs import PAPER
from plm_core import samples
from plm_core.training import Recipe
from plm_core.training.finetuning import FinetuneConfig, accuracy, finetune
from plm_core.training.micro import InMemory, save_micro

NAME = "hiera_micro_digits"
CONFIG = FinetuneConfig.plain(Recipe(epochs=40, batch_size=64, lr=2e-3, weight_decay=0.05, warmup_epochs=4))
TOP1 = "held-out digits top-1 %"


def digits(model: nn.Module, split: Literal["train", "heldout"]) -> tuple[Tensor, Tensor]:
    """Return the digits of a split, preprocessed for a model, and their labels."""
    preprocess = plm_core.transform_for(model)
    images, labels = samples.digits(split)
    return torch.stack([preprocess(image) for image in images]), torch.from_numpy(labels)


def small_affine(background: float) -> v2.Transform:
    """Return an augmentation that shifts, rotates and zooms an image a little, at random."""
    return v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=background)


def train(out: Path, seed: int = 0, epochs: float = CONFIG.recipe.epochs) -> Mapping[str, float]:
    """Train from scratch and write ``hiera_micro_digits.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Seed of initialisation, order and augmentation.
        epochs: Passes over the 1437 training digits.

    Returns:
        The held-out score, as `evaluate` returns it.

    Raises:
        MissingDependency: The extra hiera[train] is not installed.
    """
    torch.manual_seed(seed)
    model = plm_core.create_model(NAME)
    x, y = digits(model, "train")
    recipe = replace(CONFIG.recipe, epochs=epochs, warmup_epochs=epochs / 10)
    finetune(model, InMemory(x, y, small_affine(float(x.min()))), replace(CONFIG, recipe=recipe), 10, seed=seed)
    scores = evaluate(model)
    facts = {
        "Data": "the 1797 8x8 digits of scikit-learn (UCI optical recognition of handwritten digits); every fifth "
        "image (360) is held out. Both splits have the same writers, so the score says little about other writers.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hiera.micro.digits`): {epochs:g} epochs, batch "
        f"{recipe.batch_size}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine schedule, "
        f"label smoothing {CONFIG.smoothing}, small affine augmentation; no pretraining.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    save_micro(
        model,
        kind=f"Hiera ({PAPER})",
        name=NAME,
        out=out,
        task="image-classification",
        what="trained from scratch to read handwritten digits",
        facts=facts,
    )
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % of a classifier on the 360 held-out digits."""
    return {TOP1: accuracy(model, InMemory(*digits(model, "heldout")), batch_size=360)}
