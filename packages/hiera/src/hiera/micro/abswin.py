"""The recipe of ``hiera_micro_abswin`` and of its twin with a plain position embedding, ``hiera_micro_plain``.

Both read digits of 16 to 32 px anywhere on a canvas of 32 px. ``plm retrain hiera_micro_abswin --out DIR`` runs
`train`, and ``plm retrain hiera_micro_plain --out DIR`` runs `train_plain`. Both need the extra ``hiera[train]``.
`hiera.experiments.abswin` compares the two at other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from hiera import configs
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE
from plm_core import samples
from plm_core.training import seeded
from plm_core.training.finetuning import FinetuneConfig, accuracy, finetune
from plm_core.training.micro import save_micro

NAME = "hiera_micro_abswin"
PLAIN_NAME = "hiera_micro_plain"
TRAINED = 32  # side of the canvas in training and for the first score, in pixels
TWICE = 64  # side of the canvas for the second score, in pixels
SMALLEST = 16  # side of the smallest digits in pixels
LARGEST = 32  # side of the largest digits in pixels; they fill the canvas of the training
EPOCHS = 30.0
LR = 2e-3
OWN = f"held-out placed digits top-1 % at {TRAINED} px"
LARGER = f"held-out placed digits top-1 % at {TWICE} px"


class Placed(Dataset[tuple[Tensor, Tensor]]):
    """A dataset of digits of random size at random places on a canvas, float [3, canvas, canvas] from -1 to 1.

    Args:
        split: "train" or "heldout".
        canvas: Side of the canvas in pixels.
        fixed: Whether size and place depend on the index only, which makes every pass over the data the same.
    """

    def __init__(self, split: Literal["train", "heldout"], canvas: int, fixed: bool = False) -> None:
        images, labels = samples.digits(split)
        small = torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image in images])[:, None] / 127.5 - 1
        self.background = small.min()
        self.labels = torch.from_numpy(labels)
        self.resized = {
            side: F.interpolate(small.float(), size=side, mode="bicubic", antialias=True).clamp(-1, 1)
            for side in range(SMALLEST, LARGEST + 1, 4)
        }
        self.canvas = canvas
        self.fixed = fixed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with seeded(index) if self.fixed else nullcontext():
            side = SMALLEST + 4 * int(torch.randint(len(self.resized), ()))
            top, left = torch.randint(self.canvas - side + 1, (2,)).tolist()
        x = self.background.repeat(1, self.canvas, self.canvas)
        x[:, top : top + side, left : left + side] = self.resized[side][index]
        return x.expand(3, -1, -1), self.labels[index]


def classifier(seed: int, abs_win: bool) -> Hiera:
    """Build the micro model, untrained."""
    torch.manual_seed(seed)
    config = {**configs.MICRO_ABSWIN, "abs_win_pos_embed": abs_win}
    return Hiera(**config, num_classes=10, probabilities=False)


def train(out: Path, seed: int = 0, epochs: float = EPOCHS, abs_win: bool = True) -> Mapping[str, float]:
    """Train with Absolute Win and write ``hiera_micro_abswin.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Seed of initialisation, order and augmentation.
        epochs: Passes over the 1437 training digits.
        abs_win: Whether to train with Absolute Win; otherwise the plain twin, ``hiera_micro_plain``.

    Returns:
        The held-out scores, as `evaluate` returns them.
    """
    name = NAME if abs_win else PLAIN_NAME
    model = classifier(seed, abs_win)
    config = finetuning(epochs, LR)
    finetune(model, Placed("train", TRAINED), config, 10, seed=seed)
    scores = evaluate(model)
    facts = {
        "Data": f"scikit-learn's 1797 digits (every fifth held out), scaled to {SMALLEST} to {LARGEST} px and placed "
        f"at random on a canvas of {TRAINED} px.",
        "Recipe": f"`plm retrain {name} --seed {seed}` (module `hiera.micro.abswin`): {epochs:g} epochs, "
        f"batch {config.recipe.batch_size}, AdamW lr {LR}, weight decay {config.recipe.weight_decay}, cosine schedule, "
        f"label smoothing {config.smoothing}; no pretraining.",
        "Held-out top-1": f"{scores[OWN]:.2f} % at {TRAINED} px; {scores[LARGER]:.2f} % on canvases of {TWICE} px, "
        "on which the model was not trained.",
    }
    positions = "Absolute Win position embeddings (arXiv 2311.05613)" if abs_win else "an ordinary position embedding"
    description = f"with {positions}, trained from scratch to read digits placed anywhere on a canvas"
    kind = f"Hiera ({configs.PAPER})"
    save_micro(model, kind=kind, name=name, out=out, task="image-classification", what=description, facts=facts)
    return scores


def train_plain(out: Path, seed: int = 0, epochs: float = EPOCHS) -> Mapping[str, float]:
    """Train the twin with a plain position embedding as `train` does, and write ``hiera_micro_plain.safetensors``."""
    return train(out, seed, epochs, abs_win=False)


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % of a classifier on the 360 held-out digits, on canvases of both sizes."""
    return {
        name: accuracy(model, Placed("heldout", size, fixed=True), batch_size=90)
        for name, size in ((OWN, TRAINED), (LARGER, TWICE))
    }


def finetuning(epochs: float, lr: float) -> FinetuneConfig:
    """Return the configuration of a training with this number of epochs and this peak learning rate."""
    recipe = replace(FINETUNE_IMAGE["micro"].recipe, clip_grad=None, epochs=epochs, warmup_epochs=epochs / 10, lr=lr)
    return replace(FINETUNE_IMAGE["micro"], recipe=recipe)
