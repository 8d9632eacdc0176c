"""The recipe of ``hiera_micro_detector``, a Mask R-CNN of 0.4M parameters on HieraDet that finds and outlines shapes.

``plm retrain hiera_micro_detector --out DIR`` runs `train`. It needs the extras ``hiera[train,detection]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import v2

from hiera import coco, recipes
from hiera.configs import PAPER
from hiera.detection import micro_detector
from plm_core.shapes import SHAPES
from plm_core.training.micro import save_micro

NAME = "hiera_micro_detector"
SCENES = 3000  # for training
HELD_OUT = 500  # scenes for the score
CONFIG = recipes.DETECT["micro"]
BOX = "held-out shapes box mAP@[.5:.95]"
MASK = "held-out shapes mask mAP@[.5:.95]"


def train(out: Path, seed: int = 0, epochs: float = CONFIG.recipe.epochs, count: int = SCENES) -> Mapping[str, float]:
    """Train from scratch and write ``hiera_micro_detector.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Seed of initialisation, order and augmentation.
        epochs: Passes over the scenes.
        count: Number of training scenes.

    Returns:
        The held-out scores, as `evaluate` returns them.
    """
    torch.manual_seed(seed)
    model = micro_detector()
    recipe = replace(CONFIG.recipe, epochs=epochs, warmup_epochs=epochs / 16)
    data = coco.ShapesDetection("train", size=96, count=count, transform=v2.RandomHorizontalFlip())
    recipes.detect(model, data, replace(CONFIG, recipe=recipe), seed=seed)
    scores = evaluate(model)
    facts = {
        "Data": f"{count} scenes of `plm_core.shapes.Images` (96 px, 1 to 4 shapes in clutter); {HELD_OUT} held-out "
        f"scenes. Classes: {', '.join(SHAPES)}.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hiera.micro.detector`): {epochs:g} epochs, "
        f"batch {recipe.batch_size}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine schedule, flips; "
        "no pretraining.",
        "Held-out mAP@[.5:.95]": f"boxes {scores[BOX]:.3f}, masks {scores[MASK]:.3f} (computed with pycocotools).",
    }
    kind = f"Mask R-CNN with a Hiera trunk ({PAPER})"
    description = "trained from scratch to find and outline shapes"
    save_micro(model, kind=kind, name=NAME, out=out, task="object-detection", what=description, facts=facts)
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the box mAP and the mask mAP, as COCO defines them, of a detector on 500 held-out scenes."""
    scores = coco.evaluate(model, coco.ShapesDetection("heldout", size=96, count=HELD_OUT), batch_size=10)
    return {BOX: scores["box mAP@[.5:.95]"], MASK: scores["mask mAP@[.5:.95]"]}
