"""The recipe of ``hiera_micro_shapes``: masked pretraining on many scenes, finetuning on few labelled ones.

``plm retrain hiera_micro_shapes --out DIR`` runs `train`, and `compare` is the experiment of the README: the same model
with and without pretraining. It needs the extra ``hiera[train]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.micro import InMemory, save
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, PRETRAIN_IMAGE, accuracy, finetune, pretrain
from plm_core import shapes
from plm_core.progress import track
from plm_core.shapes import SHAPES

NAME = "hiera_micro_shapes"
UNLABELLED, LABELLED, HELD_OUT = 8000, 1000, 2000
PRETRAINING, FINETUNING = PRETRAIN_IMAGE["micro"], FINETUNE_IMAGE["micro"]
TOP1 = "held-out shapes top-1 %"


def scenes(split: str, count: int, size: int = 48) -> tuple[Tensor, Tensor]:
    """Scenes of one shape on grey, float [count, 3, size, size] from -1 to 1, and the numbers of their shapes."""
    world = shapes.Images(split, size=size, count=count, objects=(1, 1), background="plain")
    pixels, labels = np.empty((count, size, size, 3), np.uint8), []
    for i, scene in enumerate(track(world, f"drawing {split} scenes", count)):
        pixels[i] = scene.image
        labels.append(SHAPES.index(scene.objects[0].shape))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, torch.tensor(labels)


def moved(x: Tensor) -> Tensor:
    """A scene flipped or not, moved by up to an eighth of its side."""
    most = x.shape[-1] // 8
    down, right = torch.randint(-most, most + 1, (2,)).tolist()
    return (x.flip(-1) if torch.rand(()) < 0.5 else x).roll((down, right), (-2, -1))


def masked_autoencoder(seed: int, **changes: Any) -> MaskedAutoencoderHiera:
    """The micro model with the decoder that pretrains it, untrained."""
    torch.manual_seed(seed)
    return MaskedAutoencoderHiera(**{**configs.MICRO_SHAPES, **configs.MICRO_MAE, **changes})


def classifier(mae: MaskedAutoencoderHiera) -> Hiera:
    """The encoder with a new head; of an untrained one, the model from scratch with the same initialisation."""
    return mae.plain_encoder(len(SHAPES), q_pool=2, probabilities=False, head_init_scale=1.0)


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
        "Data": f"`plm_core.shapes.Images` (48 px, one shape on grey): {many} scenes without labels, the first "
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
