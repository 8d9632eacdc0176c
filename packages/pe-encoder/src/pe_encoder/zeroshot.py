"""Zero-shot classification by texts: the official protocol (arXiv 2504.13181, appendix; CLIP's before it).

Shapes: C classes, T texts of a class, N images or videos, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core import InputError

SCALE = 100.0
"""The factor of the logits, a constant in the official protocol, and not what the model has learned."""


def classifier(text_embeddings: Tensor | Sequence[Tensor]) -> Tensor:
    """Make a linear classifier of the embeddings of texts.

    The embeddings of a class are normalised, averaged over its texts, and normalised again.

    Args:
        text_embeddings: [C, T, E], or one tensor [T, E] for each class if they have different numbers of texts.

    Returns:
        [E, C], with columns of length 1.

    Raises:
        InputError: The embeddings have another shape, or a class has no text.
    """
    if isinstance(text_embeddings, Tensor):
        _check_embeddings("text_embeddings", text_embeddings, 3, "[classes, texts, width]")
    for texts in text_embeddings:
        _check_embeddings("a class of text_embeddings", texts, 2, "[texts, width]")
    if isinstance(text_embeddings, Tensor):
        means = F.normalize(text_embeddings, dim=-1).mean(1)
    else:
        means = torch.stack([F.normalize(texts, dim=-1).mean(0) for texts in text_embeddings])
    return F.normalize(means, dim=-1).T


def logits(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Return 100 times the cosines of images or videos [N, E] and classes [E, C]: [N, C]."""
    return SCALE * F.normalize(embeddings, dim=-1) @ weight


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Score a classification.

    Args:
        logits: [N, C].
        labels: The right classes, int64 [N].

    Returns:
        Shares from 0 to 1: ``acc1``, ``acc5`` (NaN for fewer than five classes) and ``mean_per_class_recall``, the mean
        over the classes that occur of the share of their members that are recognised.

    Raises:
        InputError: The shapes do not fit, a label names no class, or there is nothing to score.
    """
    _check_embeddings("logits", logits, 2, "[samples, classes]")
    labels = torch.as_tensor(labels)
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels is {labels.dtype} {list(labels.shape)}; one class for each of {len(logits)} is expected"
        )
    classes = logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(f"labels lie from {int(labels.min())} to {int(labels.max())}; 0 to {classes - 1} is allowed")
    hits = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
    first = hits[:, 0].double()
    members = torch.bincount(labels, minlength=classes)
    recognised = torch.zeros(classes, dtype=torch.float64, device=labels.device).index_add_(0, labels, first)
    return {
        "acc1": first.mean().item(),
        "acc5": hits.any(1).double().mean().item() if classes >= 5 else float("nan"),
        "mean_per_class_recall": (recognised / members)[members > 0].mean().item(),
    }


def _check_embeddings(name: str, x: Tensor, ndim: int, expected: str) -> None:
    if not isinstance(x, Tensor) or x.ndim != ndim or not x.is_floating_point() or not x.numel():
        what = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputError(f"{name} is {what}; floats {expected}, at least one, are expected")
