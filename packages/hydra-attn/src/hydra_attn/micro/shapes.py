"""The recipe of ``hydra_micro_shapes``, a small ViT with Hydra in its last two blocks.

``plm retrain hydra_micro_shapes --out DIR`` runs `train`. Training needs the extra ``hydra-attn[train]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn

import plm_core
from hydra_attn.finetuning import PRESETS, finetune
from plm_core.shapes import SHAPES
from plm_core.training.finetuning import accuracy
from plm_core.training.micro import FlipAndShift, InMemory, large_shapes, save_micro

NAME = "hydra_micro_shapes"
TOP1 = "held-out shapes top-1 %"
SIZE = 48
TRAIN = 6000
HELD_OUT = 2000
CONFIG = PRESETS["micro"]


def scenes(split: Literal["train", "heldout"], count: int) -> InMemory:
    """Return scenes of one large shape: float [3, 48, 48] from -1 to 1, and the number of the shape.

    Training scenes are flipped and shifted at random.
    """
    images, labels = large_shapes(split, SIZE, count)
    return InMemory(images / 127.5 - 1, labels, FlipAndShift(SIZE // 12) if split == "train" else None)


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train from scratch, and write ``hydra_micro_shapes.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Random seed of initialisation, order and augmentation.

    Returns:
        The held-out score, as `evaluate` returns it.

    Raises:
        MissingDependency: The extra hydra-attn[train] is not installed.
    """
    torch.manual_seed(seed)
    model = plm_core.create_model(NAME)
    finetune(model, scenes("train", TRAIN), CONFIG, len(SHAPES), seed=seed)
    scores = evaluate(model)
    recipe = CONFIG.recipe
    facts = {
        "Data": f"{TRAIN} scenes of {SIZE} px with one large shape from plm_core.shapes; {HELD_OUT} of the held-out "
        "split for the score.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hydra_attn.micro.shapes`): {recipe.epochs:g} epochs, "
        f"batch {recipe.batch_size}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine schedule, "
        f"label smoothing {CONFIG.smoothing}; scenes shifted and flipped.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    what = "trained from scratch to tell eight shapes apart, with Hydra Attention in its last two blocks"
    kind = "vision transformer (arXiv 2010.11929) with Hydra Attention (arXiv 2209.07484)"
    save_micro(model, kind=kind, name=NAME, out=out, task="image-classification", what=what, facts=facts)
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % on held-out scenes."""
    return {TOP1: accuracy(model, scenes("heldout", HELD_OUT), batch_size=50)}
