"""The recipe of ``tome_micro_shapes``, a plain ViT to merge tokens in, and what merging costs it.

    uv run python -m tome.micro.shapes --out DIR      # the table and the plot of the README

``plm retrain tome_micro_shapes --out DIR`` runs `train`. They need the extra ``tome[train]``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

import plm_core
from plm_core import shapes
from plm_core.shapes import SHAPES
from plm_core.training import Recipe
from plm_core.training.finetuning import Finetuning, accuracy
from plm_core.training.finetuning import finetune as plain_finetune
from plm_core.training.micro import InMemory, save
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.progress import track
from tome.api import applied
from tome.finetuning import MergedFinetuning, finetune
from tome.vit.tracing import trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "tome_micro_shapes"
TOP1 = "held-out shapes top-1 %"
SIZE, TRAIN, HELD_OUT = 48, 6000, 2000
SETTING = Finetuning(
    recipe=Recipe(epochs=20, batch=64, lr=1e-3, weight_decay=0.05, warmup_epochs=1, clip_grad=1.0),
    drop_path=0.0,
    auto_augment=None,
    mixup=0.0,
    cutmix=0.0,
)
R = (0, 4, 8, 12, 16, 20, 24, 28, 32)
TUNED = (16, 24, 32)
TUNING = replace(SETTING, recipe=replace(SETTING.recipe, epochs=2, lr=2e-4, warmup_epochs=0.2))


def scenes(split: Literal["train", "heldout"], count: int) -> InMemory:
    """Scenes of one large shape, float [3, 48, 48] from -1 to 1, and its number; those to train on are moved."""
    world = shapes.Images(split, size=SIZE, count=8 * count, objects=(1, 1), background="plain")
    chosen = islice((scene for scene in world if scene.objects[0].size == "large"), count)
    pixels, labels = np.empty((count, 3, SIZE, SIZE), np.float32), []
    for i, scene in enumerate(track(chosen, f"drawing {split} scenes", count)):
        pixels[i] = scene.image.transpose(2, 0, 1)
        labels.append(SHAPES.index(scene.objects[0].shape))
    x = torch.from_numpy(pixels / 127.5 - 1)
    return InMemory(x, torch.tensor(labels), moved if split == "train" else None)


def moved(x: Tensor) -> Tensor:
    """A scene flipped or not, moved by up to four pixels."""
    down, right = torch.randint(-4, 5, (2,)).tolist()
    return (x.flip(-1) if torch.rand(()) < 0.5 else x).roll((down, right), (-2, -1))


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train from scratch, without merging, and write ``tome_micro_shapes.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Of initialisation, order and augmentation.

    Returns:
        The held-out score, as `evaluate` gives it.

    Raises:
        MissingDependency: The extra tome[train] is not installed.
    """
    torch.manual_seed(seed)
    model = plm_core.create_model(NAME)
    plain_finetune(model, scenes("train", TRAIN), SETTING, len(SHAPES), seed=seed)
    scores = evaluate(model)
    recipe = SETTING.recipe
    facts = {
        "Data": f"{TRAIN} scenes of {SIZE} px with one large shape from plm_core.shapes; {HELD_OUT} of the held-out "
        "split for the score.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `tome.micro.shapes`): {recipe.epochs:g} epochs, batch "
        f"{recipe.batch}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine, label smoothing "
        f"{SETTING.smoothing}; scenes moved and flipped; no merging.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    what = "trained from scratch to tell eight shapes apart, for Token Merging to be tried on"
    kind = "plain vision transformer of timm's (arXiv 2010.11929)"
    save(model, kind=kind, name=NAME, out=out, task="image-classification", what=what, facts=facts)
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Top-1 in % on held-out scenes."""
    return {TOP1: accuracy(model, scenes("heldout", HELD_OUT), batch=250)}


def measure(seed: int = 0) -> list[dict[str, float]]:
    """Held-out top-1 of the shipped model by r: off the shelf, without proportional attention, finetuned while merging.

    Returns:
        A row for each r, with the tokens left; what was finetuned has a score only where it was.
    """
    held_out, data = scenes("heldout", HELD_OUT), scenes("train", TRAIN)
    model = plm_core.create_model(NAME, pretrained=True).eval()
    rows = []
    for r in R:
        row: dict[str, float] = {"r": r}
        for name, prop_attn in (("off the shelf", True), ("without proportional attention", False)):
            with applied(model, r, prop_attn=prop_attn):
                row[name] = accuracy(model, held_out, batch=250)
                row["tokens"] = trace(model, held_out.x[:1]).tokens[-1]
        if r in TUNED:
            tuned = copy.deepcopy(model)
            finetune(tuned, data, MergedFinetuning(setting=TUNING, r=r), len(SHAPES), seed=seed)
            row["finetuned while merging"] = accuracy(tuned, held_out, batch=250)
        rows.append(row)
    return rows


def plot(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Accuracy by r."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    ax = figure.subplots()
    styles = {
        "off the shelf": "#4477aa",
        "without proportional attention": "#bbbbbb",
        "finetuned while merging": "#228833",
    }
    for name, colour in styles.items():
        mine = [row for row in rows if name in row]
        ax.plot([row["r"] for row in mine], [row[name] for row in mine], color=colour, marker="o", label=name)
    ax.set_xticks([row["r"] for row in rows], [f"{row['r']}\n{row['tokens']}" for row in rows])
    ax.set_xlabel("r, and tokens left of 145")
    ax.set_ylabel("held-out top-1 in %")
    ax.legend(fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, and write ``merging.json`` and ``merging.png``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = measure()
    write_text(arguments.out / "merging.json", json.dumps(rows, indent=1))
    with atomic_path(arguments.out / "merging.png") as path:
        plot(rows).savefig(path, format="png", dpi=120)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
