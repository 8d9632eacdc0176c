"""Does masked pretraining pay? The same micro model with and without it, on scenes of which few are labelled.

`compare` is an experiment; no model is shipped of it yet. It needs the extra ``hiera[train]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.micro import InMemory
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, Pretraining, accuracy, finetune, pretrain
from plm_core import shapes
from plm_core.progress import track
from plm_core.shapes import SHAPES
from plm_core.training import Recipe

UNLABELLED, LABELLED, HELD_OUT = 8000, 1000, 2000
PRETRAINING = Pretraining(
    mask_ratio=0.5, recipe=Recipe(epochs=32, batch=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)
)
FINETUNING = FINETUNE_IMAGE["micro"]


def scenes(split: str, count: int) -> tuple[Tensor, Tensor]:
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


def classifier(mae: MaskedAutoencoderHiera) -> Hiera:
    """The encoder with a new head; of an untrained one, the model from scratch with the same initialisation."""
    return mae.plain_encoder(len(SHAPES), q_pool=1, probabilities=False, head_init_scale=1.0)


def compare(seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, float]]:
    """With and without masked pretraining, at equal epochs of finetuning: one row of held-out top-1 per seed."""
    unlabelled, labelled = InMemory(*scenes("train", UNLABELLED), moved), InMemory(*scenes("train", LABELLED), moved)
    held_out = InMemory(*scenes("heldout", HELD_OUT))
    rows = []
    for seed in seeds:
        row: dict[str, float] = {"seed": seed}
        for name in ("from scratch", "pretrained"):
            mae = masked_autoencoder(seed)
            if name == "pretrained":
                pretrain(mae, unlabelled, PRETRAINING, seed=seed)
            model = classifier(mae)
            finetune(model, labelled, FINETUNING, len(SHAPES), seed=seed)
            row[name] = accuracy(model, held_out, batch=250)
        rows.append(row)
    return rows
