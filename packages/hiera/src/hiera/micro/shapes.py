"""The recipe of ``hiera_micro_shapes``: masked pretraining, then finetuning on few labelled scenes.

The scenes are grey and show one large shape. ``plm retrain hiera_micro_shapes --out DIR`` runs `train`. It needs the
extra ``hiera[train]``. `hiera.experiments.pretraining` measures how much the pretraining helps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, PretrainConfig, pretrain
from plm_core.shapes import SHAPES
from plm_core.training import Recipe
from plm_core.training.finetuning import accuracy, finetune
from plm_core.training.micro import FlipAndShift, InMemory, large_shapes, save_micro

NAME = "hiera_micro_shapes"
TOP1 = "held-out grey shapes top-1 %"
UNLABELLED = 8000  # scenes for pretraining
LABELLED = 1000  # scenes for finetuning, the first of the same scenes
HELD_OUT = 2000  # scenes for the score
PRETRAINING = PretrainConfig(
    mask_ratio=0.5,
    recipe=Recipe(epochs=64, batch_size=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1),
)
FINETUNING = FINETUNE_IMAGE["micro"]
AUGMENT = FlipAndShift(pixels=3)


def scenes(split: Literal["train", "heldout"], count: int) -> tuple[Tensor, Tensor]:
    """Draw grey scenes of one large shape, float [count, 3, 32, 32] from -1 to 1, and the numbers of their shapes.

    They are grey because masked pretraining normalises each patch. A patch of one flat colour would become that colour
    at full contrast, and the loss would only measure the tint of the background.
    """
    images, labels = large_shapes(split, 32, count)
    return images.float().mean(1, keepdim=True).expand(-1, 3, -1, -1) / 127.5 - 1, labels


def masked_autoencoder(seed: int) -> MaskedAutoencoderHiera:
    """Build the untrained micro model, with the decoder for its pretraining."""
    torch.manual_seed(seed)
    return MaskedAutoencoderHiera(**{**configs.MICRO_GREY, **configs.MICRO_GREY_MAE})


def pretrained(unlabelled: Tensor, seed: int) -> MaskedAutoencoderHiera:
    """Return the micro model after masked pretraining."""
    mae = masked_autoencoder(seed)
    pretrain(mae, InMemory(unlabelled, torch.zeros(len(unlabelled)), AUGMENT), PRETRAINING, seed=seed)
    return mae


def finetuned(mae: MaskedAutoencoderHiera, x: Tensor, y: Tensor, seed: int) -> Hiera:
    """Return the encoder, finetuned with a new head.

    An untrained autoencoder gives the model that is trained from scratch, with the same initialisation.
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(mae).plain_encoder(len(SHAPES), q_pool=1, probabilities=False, head_init_scale=1.0)
    finetune(model, InMemory(x, y, AUGMENT), FINETUNING, len(SHAPES), seed=seed)
    return model


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Pretrain, finetune, and write ``hiera_micro_shapes.safetensors`` and its model card into ``out``.

    This takes 15 minutes.

    Args:
        out: Folder for the two files.
        seed: Seed of initialisation, order and augmentation.

    Returns:
        The held-out score, as `evaluate` returns it.

    Raises:
        MissingDependency: The extra hiera[train] is not installed.
    """
    x, y = scenes("train", UNLABELLED)
    model = finetuned(pretrained(x, seed), x[:LABELLED], y[:LABELLED], seed)
    scores = evaluate(model)
    pretraining, finetuning = PRETRAINING.recipe, FINETUNING.recipe
    facts = {
        "Data": f"{UNLABELLED} grey scenes of 32 px from `plm_core.shapes`, each with one large shape. {LABELLED} of "
        f"them are used with their labels. The score is measured on {HELD_OUT} scenes of the held-out split.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hiera.micro.shapes`): "
        f"{pretraining.epochs:g} epochs of masked pretraining on all scenes without their labels, mask ratio "
        f"{PRETRAINING.mask_ratio}, batch {pretraining.batch_size}, AdamW lr {pretraining.lr}; "
        f"{finetuning.epochs:g} epochs of finetuning on the labelled scenes, batch {finetuning.batch_size}, AdamW lr "
        f"{finetuning.lr}. Both with a cosine schedule, weight decay {finetuning.weight_decay}, and scenes flipped and "
        "shifted at random.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    description = "pretrained as a masked autoencoder and finetuned to tell eight shapes apart"
    kind = f"Hiera ({configs.PAPER})"
    save_micro(model, kind=kind, name=NAME, out=out, task="image-classification", what=description, facts=facts)
    return scores


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % on held-out scenes."""
    return {TOP1: accuracy(model, InMemory(*scenes("heldout", HELD_OUT)), batch_size=50)}
