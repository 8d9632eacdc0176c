"""The recipes of ``zipit_micro_shapes_a`` and ``zipit_micro_shapes_b``, two small ResNets that know different shapes.

``plm retrain zipit_micro_shapes_a --out DIR`` runs `train_a`. Training needs the extra ``zipit[train]``. Each model
tells four of the eight shapes apart, and has never seen the others. They start from different weights, so that merging
them is what the paper is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import plm_core
from plm_core.shapes import SHAPES
from plm_core.training import Recipe
from plm_core.training.finetuning import FinetuneConfig, accuracy, finetune
from plm_core.training.micro import FlipAndShift, InMemory, large_shapes, save_micro

NAMES = ("zipit_micro_shapes_a", "zipit_micro_shapes_b")
TASKS = (SHAPES[:4], SHAPES[4:])
TOP1 = "held-out top-1 % of its four shapes"
SIZE = 48
TRAIN = 4000
"""Training scenes of each model."""
HELD_OUT = 1000
CONFIG = FinetuneConfig.plain(Recipe(epochs=15, batch_size=64, lr=2e-3, weight_decay=0.05, warmup_epochs=1))


def scenes(split: str, count: int, shapes: tuple[str, ...] = SHAPES) -> tuple[Tensor, Tensor]:
    """Return scenes of one large shape on plain grey, and the number of the shape among ``shapes``.

    Args:
        split: "train" or "heldout".
        count: Number of scenes to draw. Those of other shapes are left out.
        shapes: The shapes.

    Returns:
        float32 [N, 3, 48, 48] from -1 to 1, and int64 [N].
    """
    images, labels = large_shapes(split, SIZE, count)
    numbers = torch.tensor([shapes.index(name) if name in shapes else -1 for name in SHAPES])[labels]
    return (images / 127.5 - 1)[numbers >= 0], numbers[numbers >= 0]


def train_a(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train the model of the first four shapes, see `train`."""
    return train(0, out, seed)


def train_b(out: Path, seed: int = 1) -> Mapping[str, float]:
    """Train the model of the last four shapes, see `train`."""
    return train(1, out, seed)


def train(which: int, out: Path, seed: int) -> Mapping[str, float]:
    """Train from scratch, and write the checkpoint and its model card into ``out``.

    Args:
        which: 0 or 1, the model.
        out: Folder for the two files.
        seed: Random seed of initialisation, order and augmentation. The two have different ones.

    Returns:
        The held-out score.

    Raises:
        MissingDependency: The extra zipit[train] is not installed.
    """
    torch.manual_seed(seed)
    name, shapes = NAMES[which], TASKS[which]
    model = plm_core.create_model(name)
    data = InMemory(*scenes("train", 2 * TRAIN, shapes), FlipAndShift(SIZE // 12))
    finetune(model, data, CONFIG, len(shapes), seed=seed)
    scores = evaluate(model, which)
    recipe = CONFIG.recipe
    facts = {
        "Data": f"the scenes of {', '.join(shapes)} among {2 * TRAIN} scenes of {SIZE} px with one large shape from "
        f"plm_core.shapes; those among {2 * HELD_OUT} of the held-out split for the score. It has seen no other shape.",
        "Recipe": f"`plm retrain {name} --seed {seed}` (module `zipit.micro.shapes`): {recipe.epochs:g} epochs, batch "
        f"{recipe.batch_size}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine schedule, label "
        f"smoothing {CONFIG.smoothing}; scenes shifted and flipped.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    what = f"trained from scratch to tell four shapes apart, to be merged with {NAMES[1 - which]}"
    kind = "ResNet with one basic block per stage (arXiv 1512.03385)"
    save_micro(model, kind=kind, name=name, out=out, task="image-classification", what=what, facts=facts)
    return scores


def evaluate_a(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % on held-out scenes of the first four shapes."""
    return evaluate(model, 0)


def evaluate_b(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % on held-out scenes of the last four shapes."""
    return evaluate(model, 1)


def evaluate(model: nn.Module, which: int) -> Mapping[str, float]:
    """Return the top-1 accuracy in % on held-out scenes of the shapes of a model, 0 or 1."""
    return {TOP1: accuracy(model, InMemory(*scenes("heldout", 2 * HELD_OUT, TASKS[which])), batch_size=100)}
