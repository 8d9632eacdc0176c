"""The recipe of ``hiera_micro_motions``, a video Hiera of 0.2M parameters that tells motions apart.

``plm retrain hiera_micro_motions --out DIR`` runs `train`. It needs the extra ``hiera[train]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.recipes import FINETUNE_VIDEO
from plm_core import shapes
from plm_core.shapes import MOTIONS
from plm_core.training.finetuning import accuracy, finetune
from plm_core.training.micro import InMemory, save_micro
from plm_core.utils.progress import track

NAME = "hiera_micro_motions"
CLIPS = 8000
CONFIG = FINETUNE_VIDEO["micro"]
TOP1 = "held-out motions top-1 %"


def clips(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Draw clips of one moving shape, float [count, 3, 8, 32, 32] from -1 to 1, and the numbers of their motions."""
    world = shapes.Clips(split, size=32, frames=8, count=count, objects=(1, 1), background="plain")
    pixels, labels = np.empty((count, 8, 32, 32, 3), np.uint8), []
    for i, clip in enumerate(track(world, f"drawing {split} clips", count)):
        pixels[i] = clip.frames
        motions = [event.motion for event in clip.events if event.motion != "still"]
        labels.append(MOTIONS.index(motions[0] if motions else "still"))
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3) / 127.5 - 1, torch.tensor(labels)


def recolour(clip: Tensor) -> Tensor:
    """Shuffle the channels of a clip and shift it by up to two pixels."""
    down, right = torch.randint(-2, 3, (2,)).tolist()
    return clip[torch.randperm(3)].roll((down, right), (2, 3))


def train(out: Path, seed: int = 0, epochs: float = CONFIG.recipe.epochs, count: int = CLIPS) -> Mapping[str, float]:
    """Train from scratch and write ``hiera_micro_motions.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Seed of initialisation, order and augmentation.
        epochs: Passes over the clips.
        count: Number of training clips.

    Returns:
        The held-out score, as `evaluate` returns it.
    """
    torch.manual_seed(seed)
    # The encoder starts with MAE's initialisation, and the head does not start near zero. A classifier's own
    # initialisation is meant for wide models. At this width and learning rate, a model that starts with it learns
    # nothing for hundreds of steps.
    autoencoder = MaskedAutoencoderHiera(**{**configs.MICRO_MOTIONS, **configs.MICRO_MAE})
    model = autoencoder.plain_encoder(len(MOTIONS), q_pool=2, probabilities=False, head_init_scale=1.0)
    recipe = replace(CONFIG.recipe, epochs=epochs, warmup_epochs=epochs / 16)
    data = InMemory(*clips("train", count), recolour)
    finetune(model, data, replace(CONFIG, recipe=recipe), len(MOTIONS), seed=seed)
    scores = evaluate(model)
    facts = {
        "Data": f"{count} clips of `plm_core.shapes.Clips` (8 frames of 32 px, one shape on grey); 1000 held-out "
        f"clips. Classes: {', '.join(MOTIONS)}.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `hiera.micro.motions`): {epochs:g} epochs, batch "
        f"{recipe.batch_size}, AdamW lr {recipe.lr}, weight decay {recipe.weight_decay}, cosine schedule, "
        f"label smoothing {CONFIG.smoothing}, small shifts and permuted colour channels; no pretraining.",
        "Held-out top-1": f"{scores[TOP1]:.2f} %",
    }
    save_micro(
        model,
        kind=f"Hiera ({configs.PAPER})",
        name=NAME,
        out=out,
        task="video-classification",
        what="trained from scratch to tell how a shape moves or changes in a clip",
        facts=facts,
    )
    return scores


def evaluate(model: torch.nn.Module) -> Mapping[str, float]:
    """Return the top-1 accuracy in % of a classifier on 1000 held-out clips."""
    return {TOP1: accuracy(model, InMemory(*clips("heldout", 1000)), batch_size=250)}
