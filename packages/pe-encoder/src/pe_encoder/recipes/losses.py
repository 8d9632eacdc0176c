"""The losses between both towers, over the batch of all processes: contrastive, and the divergence from a teacher.

Each returns the mean over the samples of this process, compared with those of all processes. The mean over the
processes is the loss of the whole batch, see `plm_core.training.gathering`.

Shapes: B samples of this process, E width of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core.training.gathering import first_row, gather


def similarities(media: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of this process's samples with those of all processes.

    Args:
        media: Embeddings of images or videos, [B, E] of length 1.
        texts: Embeddings of their captions, [B, E] of length 1.

    Returns:
        Of the images with all captions, and of the captions with all images; each float32 [B, processes * B].
    """
    with torch.autocast(media.device.type, enabled=False):
        media, texts = media.float(), texts.float()
        return media @ gather(texts).T, texts @ gather(media).T


def contrastive(media: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric contrastive loss, InfoNCE (arXiv 2103.00020, figure 3).

    Args:
        media: Embeddings of images or videos, [B, E] of length 1.
        texts: Embeddings of their captions, [B, E] of length 1.
        scale: The factor of the logits.
    """
    own = first_row(len(media)) + torch.arange(len(media), device=media.device)
    losses = [F.cross_entropy(scale * cosines, own) for cosines in similarities(media, texts)]
    return torch.stack(losses).mean()


def divergence(
    student: tuple[Tensor, Tensor], scale: Tensor, teacher: tuple[Tensor, Tensor], teacher_scale: float
) -> Tensor:
    """Return the Kullback-Leibler divergence of a student's matches from a teacher's, in both directions.

    The distributions are the softmax of an image over all captions, and that of a caption over all images.

    Args:
        student: The student's embeddings of the images and of the captions, each [B, E] of length 1.
        scale: The student's factor of the logits.
        teacher: The teacher's embeddings, whose width may be another.
        teacher_scale: The teacher's factor of the logits.
    """
    pairs = zip(similarities(*student), similarities(*teacher), strict=True)
    losses = [
        F.kl_div(
            F.log_softmax(scale * ours, -1),
            F.log_softmax(teacher_scale * theirs, -1),
            log_target=True,
            reduction="batchmean",
        )
        for ours, theirs in pairs
    ]
    return torch.stack(losses).mean()
