"""The recipe of ``hiera_micro_shapes``, and its measurement: does masked pretraining pay?

    uv run python -m hiera.micro.shapes --out DIR      # the table and the plot of the README

The same model is finetuned from scratch and after masked pretraining, for equal epochs, on grey scenes of one large
shape, of which few are labelled. ``plm retrain hiera_micro_shapes --out DIR`` runs `train`, the pretrained one. It
needs the extra ``hiera[train]``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.micro import InMemory, save
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, Pretraining, accuracy, finetune, pretrain
from plm_core import shapes
from plm_core.shapes import SHAPES
from plm_core.training import Recipe
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "hiera_micro_shapes"
TOP1 = "held-out grey shapes top-1 %"
SCRATCH, PRETRAINED = "from scratch", "pretrained"
UNLABELLED, LABELLED, HELD_OUT = 8000, (250, 500, 1000), 2000
PRETRAINING = Pretraining(
    mask_ratio=0.5, recipe=Recipe(epochs=64, batch=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)
)
FINETUNING = FINETUNE_IMAGE["micro"]


def scenes(split: Literal["train", "heldout"], count: int) -> tuple[Tensor, Tensor]:
    """Grey scenes of one large shape, float [count, 3, 32, 32] from -1 to 1, and the numbers of their shapes.

    Grey, since a patch of one flat colour, normalised as masked pretraining does, is that colour at full contrast: the
    loss would be about nothing but the background's tint.
    """
    world = shapes.Images(split, size=32, count=8 * count, objects=(1, 1), background="plain")
    chosen = islice((scene for scene in world if scene.objects[0].size == "large"), count)
    pixels, labels = np.empty((count, 1, 32, 32), np.float32), []
    for i, scene in enumerate(track(chosen, f"drawing {split} scenes", count)):
        pixels[i, 0] = scene.image.mean(-1)
        labels.append(SHAPES.index(scene.objects[0].shape))
    return torch.from_numpy(pixels).expand(-1, 3, -1, -1) / 127.5 - 1, torch.tensor(labels)


def moved(x: Tensor) -> Tensor:
    """A scene flipped or not, moved by up to three pixels."""
    down, right = torch.randint(-3, 4, (2,)).tolist()
    return (x.flip(-1) if torch.rand(()) < 0.5 else x).roll((down, right), (-2, -1))


def masked_autoencoder(seed: int) -> MaskedAutoencoderHiera:
    """The micro model with the decoder that pretrains it, untrained."""
    torch.manual_seed(seed)
    return MaskedAutoencoderHiera(**{**configs.MICRO_GREY, **configs.MICRO_GREY_MAE})


def pretrained(unlabelled: Tensor, seed: int) -> MaskedAutoencoderHiera:
    """The micro model after masked pretraining."""
    mae = masked_autoencoder(seed)
    pretrain(mae, InMemory(unlabelled, torch.zeros(len(unlabelled)), moved), PRETRAINING, seed=seed)
    return mae


def finetuned(mae: MaskedAutoencoderHiera, x: Tensor, y: Tensor, seed: int) -> Hiera:
    """The encoder with a new head, finetuned; of an untrained one, the model from scratch, equally initialised."""
    torch.manual_seed(seed)
    model = copy.deepcopy(mae).plain_encoder(len(SHAPES), q_pool=1, probabilities=False, head_init_scale=1.0)
    finetune(model, InMemory(x, y, moved), FINETUNING, len(SHAPES), seed=seed)
    return model


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Pretrain, finetune and write ``hiera_micro_shapes.safetensors`` and its model card into ``out``; 15 minutes.

    Args:
        out: Folder for the two files.
        seed: Of initialisation, order and augmentation.

    Returns:
        The held-out score, as `evaluate` gives it.

    Raises:
        MissingDependency: The extra hiera[train] is not installed.
    """
    x, y = scenes("train", UNLABELLED)
    few = LABELLED[-1]
    model = finetuned(pretrained(x, seed), x[:few], y[:few], seed)
    scores = evaluate(model)
    pretraining, finetuning = PRETRAINING.recipe, FINETUNING.recipe
    facts = {
        "Data": f"{UNLABELLED} grey scenes of 32 px with one large shape from plm_core.shapes, {few} of them labelled; "
        f"{HELD_OUT} of the held-out split for the score.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hiera.micro.shapes`): "
        f"{pretraining.epochs:g} epochs of masked pretraining on the scenes without labels, mask ratio "
        f"{PRETRAINING.mask_ratio}, batch {pretraining.batch}, AdamW lr {pretraining.lr}; {finetuning.epochs:g} epochs "
        f"of finetuning on the labelled ones, batch {finetuning.batch}, AdamW lr {finetuning.lr}; cosine, weight decay "
        f"{finetuning.weight_decay}; scenes moved and flipped.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    what = "pretrained as a masked autoencoder and finetuned to tell eight shapes apart"
    save(model, name=NAME, out=out, task="image-classification", what=what, facts=facts)
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Top-1 in % on held-out scenes."""
    return {TOP1: accuracy(model, InMemory(*scenes("heldout", HELD_OUT)), batch=250)}


def compare(seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, float]]:
    """Held-out top-1 with and without masked pretraining, at equal epochs of finetuning: a row per seed and data."""
    x, y = scenes("train", UNLABELLED)
    held_out = InMemory(*scenes("heldout", HELD_OUT))
    rows: list[dict[str, float]] = []
    for seed in seeds:
        starts = {SCRATCH: masked_autoencoder(seed), PRETRAINED: pretrained(x, seed)}
        for few in LABELLED:
            top1 = {
                name: accuracy(finetuned(mae, x[:few], y[:few], seed), held_out, batch=250)
                for name, mae in starts.items()
            }
            rows.append({"seed": seed, "labelled": few, **top1})
    return rows


def plot(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Accuracy by the number of labelled scenes; a line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    ax = figure.subplots()
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    for name, colour in {SCRATCH: "#bbbbbb", PRETRAINED: "#4477aa"}.items():
        for seed in seeds:
            mine = [row for row in rows if row["seed"] == seed]
            label = name if seed == seeds[0] else None
            ax.plot(
                [row["labelled"] for row in mine], [row[name] for row in mine], color=colour, marker="o", label=label
            )
    ax.axhline(100 / len(SHAPES), color="#999999", linestyle=":", linewidth=1)
    ax.set_xlabel("labelled scenes")
    ax.set_ylabel("held-out top-1 in %")
    ax.legend(fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, and write ``pretraining.json`` and ``pretraining.png``; three quarters of an hour."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = compare(range(arguments.seeds))
    write_text(arguments.out / "pretraining.json", json.dumps(rows, indent=1))
    with atomic_path(arguments.out / "pretraining.png") as path:
        plot(rows).savefig(path, format="png", dpi=120)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
