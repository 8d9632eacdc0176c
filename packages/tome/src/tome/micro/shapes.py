"""The recipe of ``tome_micro_shapes``, a plain ViT that tokens are merged in.

``plm retrain tome_micro_shapes --out DIR`` runs `train`. Training needs the extra ``tome[train]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

import plm_core
from plm_core import shapes
from plm_core.shapes import SHAPES
from plm_core.training import Recipe
from plm_core.training.finetuning import FinetuneConfig, accuracy, finetune
from plm_core.training.micro import InMemory, save_micro
from plm_core.utils.progress import track

NAME = "tome_micro_shapes"
TOP1 = "held-out shapes top-1 %"
SIZE = 48
TRAIN = 6000
HELD_OUT = 2000
CONFIG = FinetuneConfig(
    recipe=Recipe(epochs=20, batch_size=64, lr=1e-3, weight_decay=0.05, warmup_epochs=1, clip_grad=1.0),
    drop_path=0.0,
    auto_augment=None,
    mixup=0.0,
    cutmix=0.0,
)


def scenes(split: Literal["train", "heldout"], count: int) -> InMemory:
    """Return scenes of one large shape: float [3, 48, 48] from -1 to 1, and the number of the shape.

    Training scenes are flipped and shifted at random.
    """
    world = shapes.Images(split, size=SIZE, count=8 * count, objects=(1, 1), background="plain")
    large = islice((scene for scene in world if scene.objects[0].size == "large"), count)
    pixels, labels = np.empty((count, 3, SIZE, SIZE), np.float32), []
    for i, scene in enumerate(track(large, f"drawing {split} scenes", count)):
        pixels[i] = scene.image.transpose(2, 0, 1)
        labels.append(SHAPES.index(scene.objects[0].shape))
    x = torch.from_numpy(pixels / 127.5 - 1)
    return InMemory(x, torch.tensor(labels), flip_and_shift if split == "train" else None)


def flip_and_shift(x: Tensor) -> Tensor:
    """Flip a scene with probability one half, and shift it at random by up to four pixels."""
    down, right = torch.randint(-4, 5, (2,)).tolist()
    return (x.flip(-1) if torch.rand(()) < 0.5 else x).roll((down, right), (-2, -1))


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train from scratch, without merging, and write ``tome_micro_shapes.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Random seed of initialisation, order and augmentation.

    Returns:
        The held-out score, as `evaluate` returns it.

    Raises:
        MissingDependency: The extra tome[train] is not installed.
    """
    torch.manual_seed(seed)
    model = plm_core.create_model(NAME)
    finetune(model, scenes("train", TRAIN), CONFIG, len(SHAPES), seed=seed)
    scores = evaluate(model)
    recipe = CONFIG.recipe
    facts = {
        "Data": f"{TRAIN} scenes of {SIZE} px with one large shape from plm_core.shapes; {HELD_OUT} of the held-out "
        "split for the score.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `tome.micro.shapes`): {recipe.epochs:g} epochs, batch "
        f"{recipe.batch_size}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine, label smoothing "
        f"{CONFIG.smoothing}; scenes shifted and flipped; no merging.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    what = "trained from scratch to tell eight shapes apart, as a model to try Token Merging on"
    kind = "plain vision transformer from timm (arXiv 2010.11929)"
    save_micro(model, kind=kind, name=NAME, out=out, task="image-classification", what=what, facts=facts)
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % on held-out scenes."""
    return {TOP1: accuracy(model, scenes("heldout", HELD_OUT), batch_size=250)}
