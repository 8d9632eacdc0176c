"""The objects in a batch of images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.prediction.labels import Labels
from plm_core.prediction.masks import Mask
from plm_core.prediction.results import Detection

MASK_LEVEL = 0.5
"""Probability from which a pixel belongs to an object, as in the COCO evaluation of Mask R-CNN."""


def detect(model: nn.Module, images: Sequence[Tensor], labels: Labels, threshold: float) -> list[tuple[Detection, ...]]:
    """Return the objects of each image whose score is at least ``threshold``, best first.

    Args:
        model: A detector with torchvision's interface. It takes a list of images and returns for each a dict of
            ``boxes`` [N, 4], ``labels`` [N] from 1, ``scores`` [N] and perhaps ``masks`` [N, 1, H, W].
        images: Images, float [3, H, W] from 0 to 1 on the model's device. Their sizes may differ.
        labels: Names of the classes, whose numbers here begin at 0.
        threshold: Lowest score.
    """
    return [objects_of(prediction, labels, threshold) for prediction in run_detector(model, images)]


def run_detector(model: nn.Module, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Return what a detector predicts for each image, whatever other images are in the batch.

    Detectors pad the images of a batch to a common size, and a model with global attention or with interpolated
    positions finds other objects in a padded image. So only images of the same size share a forward pass.

    Args:
        model: A detector with torchvision's interface, in eval mode.
        images: Images, float [3, H, W] from 0 to 1 on the model's device. Their sizes may differ.

    Returns:
        The dict of each image, in the order of the images.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[tuple(image.shape)].append(index)
    predictions: dict[int, dict[str, Tensor]] = {}
    for group in groups.values():
        output: Any = model([images[index] for index in group])
        predictions.update(zip(group, output, strict=True))
    return [predictions[index] for index in range(len(images))]


def objects_of(
    prediction: Mapping[str, Tensor], labels: Callable[[int], str], threshold: float
) -> tuple[Detection, ...]:
    """Return the objects in a detector's prediction for an image, with the arguments of `detect`."""
    scores = prediction["scores"].float()
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= threshold]  # before the masks leave the device, since they are large
    boxes, numbers = prediction["boxes"][order].float().tolist(), prediction["labels"][order].tolist()
    masks: list[Mask | None] = [None] * len(order)
    if "masks" in prediction:
        pixels = (prediction["masks"][order] >= MASK_LEVEL).flatten(0, 1).cpu().numpy()
        masks = [Mask.encode(mask) for mask in pixels]
    return tuple(
        Detection(number, labels(number - 1), score, tuple(box), mask)
        for number, score, box, mask in zip(numbers, scores[order].tolist(), boxes, masks, strict=True)
    )
