"""The recipe of ``hiera_micro_shapes``: masked pretraining on many scenes, finetuning on few labelled ones.

``plm retrain hiera_micro_shapes --out DIR`` runs `train`, and `compare` is the experiment of the README: the same model
with and without pretraining. It needs the extra ``hiera[train]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.micro import InMemory, save
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, Pretraining, accuracy, finetune, pretrain
from plm_core import shapes
from plm_core.progress import track
from plm_core.shapes import SHAPES
from plm_core.training import Recipe

NAME = "hiera_micro_shapes"
UNLABELLED, LABELLED, HELD_OUT = 8000, 1000, 2000
PRETRAINING = Pretraining(
    mask_ratio=0.5, recipe=Recipe(epochs=32, batch=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)
)
FINETUNING = FINETUNE_IMAGE["micro"]
TOP1 = "held-out shapes top-1 %"


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


def train(out: Path, seed: int = 0, shorten: float = 1.0) -> Mapping[str, float]:
    """Pretrain, finetune, and write ``hiera_micro_shapes.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Of initialisation, order, masks and augmentation.
        shorten: Factor on data and epochs, to try it.

    Returns:
        The held-out score, as `evaluate` gives it.
    """
    few, many = int(LABELLED * shorten), int(UNLABELLED * shorten)
    pretraining, finetuning = (_shortened(setting, shorten) for setting in (PRETRAINING, FINETUNING))
    mae = masked_autoencoder(seed)
    pretrain(mae, InMemory(*scenes("train", many), moved), pretraining, seed=seed)
    model = classifier(mae)
    finetune(model, InMemory(*scenes("train", few), moved), finetuning, len(SHAPES), seed=seed)
    scores = evaluate(model)
    first, then = pretraining.recipe, finetuning.recipe
    facts = {
        "Data": f"`plm_core.shapes.Images` (32 px in grey, one large shape): {many} scenes without labels, the first "
        f"{few} with; {HELD_OUT} held-out scenes. Labels: {', '.join(SHAPES)}.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hiera.micro_shapes`): masked pretraining, ratio "
        f"{pretraining.mask_ratio}, {first.epochs:g} epochs, batch {first.batch}, AdamW lr {first.lr}; finetuning, "
        f"{then.epochs:g} epochs, batch {then.batch}, lr {then.lr}, label smoothing {finetuning.smoothing}; weight "
        f"decay {then.weight_decay}, cosine, shifts and flips.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    what = "pretrained by masked autoencoding and finetuned to name shapes; its positions are Absolute Win"
    save(model, NAME, out, "image-classification", what, facts)
    return scores


def _shortened(setting: Any, factor: float) -> Any:
    recipe = setting.recipe
    return replace(
        setting,
        recipe=replace(recipe, epochs=recipe.epochs * factor, warmup_epochs=recipe.warmup_epochs * factor),
    )


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Top-1 in % of a classifier of eight shapes on 2000 held-out scenes."""
    return {TOP1: accuracy(model, InMemory(*scenes("heldout", HELD_OUT)), batch=250)}


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
