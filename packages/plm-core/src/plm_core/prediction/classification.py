"""The classes of a batch of images."""

from __future__ import annotations

from torch import Tensor, nn

from plm_core.embedding import logits_of
from plm_core.errors import NotSupported, WeightsError
from plm_core.prediction.labels import Labels
from plm_core.prediction.results import ClassScore
from plm_core.prediction.tasks import name_of


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Return the probabilities of a classifier, float32 [B, num_classes] on the CPU.

    Args:
        model: The classifier. It gives logits, unless it says by its attribute ``probabilities`` that it does not.
        x: Preprocessed inputs [B, ...].

    Raises:
        NotSupported: The model has another output than a classifier.
        WeightsError: The model gives NaN.
    """
    output = logits_of(model(x))
    if output is None or output.ndim != 2:
        raise NotSupported(f"model {name_of(model)!r} gives no logits [B, num_classes]")
    result = (output.float() if getattr(model, "probabilities", False) else output.float().softmax(-1)).cpu()
    if result.isnan().any():
        raise WeightsError(
            f"model {name_of(model)!r} gives NaN: its values are too large for this precision; take fp32"
        )
    return result


def classify(model: nn.Module, x: Tensor, labels: Labels, top: int) -> list[tuple[ClassScore, ...]]:
    """Return the ``top`` most probable classes of each image, from preprocessed images [B, C, H, W]."""
    return [best(row, labels, top) for row in probabilities(model, x)]


def best(row: Tensor, labels: Labels, top: int) -> tuple[ClassScore, ...]:
    """Return the ``top`` most probable classes, best first, from their probabilities [num_classes]."""
    values, numbers = row.topk(min(top, len(row)))
    return tuple(ClassScore(n, labels(n), p) for n, p in zip(numbers.tolist(), values.tolist(), strict=True))
