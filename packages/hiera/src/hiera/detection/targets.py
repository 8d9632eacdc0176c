"""The check of the images and the targets that a detector is given, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plm_core import InputError

MARGIN = 0.5
"""How far the levels of an image may be outside of 0 to 1, as after noise or sharpening."""
OUTSIDE = 1.0
"""How far a box may reach out of its image in pixels, as after rounding."""


def check_images(images: Any, dtype: torch.dtype) -> list[Tensor]:
    """Return the images as a list of tensors [3, H, W] of the dtype.

    Raises:
        InputError: One of them is not such an image with levels from 0 to 1, or there is none.
    """
    batch = isinstance(images, Tensor) and images.ndim == 4
    if not (batch or isinstance(images, list | tuple)) or not len(images):
        raise InputError(f"images must be a list of tensors [3, height, width], not {_kind(images)}")
    for i, image in enumerate(images):
        name = f"images[{i}]"
        _check_tensor(name, image)
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.numel():
            raise InputError(f"{name} is {_kind(image)}; float [3, height, width] is expected")
        if not image.isfinite().all():
            raise InputError(f"{name} has NaN or infinite values")
        low, high = (float(level) for level in image.detach().aminmax())
        if low < -MARGIN or high > 1 + MARGIN:
            raise InputError(f"{name} has levels from {low:.4g} to {high:.4g}; 0 to 1 are expected, not normalised")
    return [image.to(dtype) for image in images]


def check_targets(targets: Any, images: Sequence[Tensor], num_classes: int, masks: bool) -> list[dict[str, Tensor]]:
    """Return the targets with boxes in float32, and check each against its image.

    Args:
        targets: The targets, as `hiera.detection.Detector` describes them.
        images: The images, which `check_images` has passed.
        num_classes: Number of classes without the background.
        masks: Whether the targets need masks.

    Raises:
        InputError: A target is not as described.
    """
    if not isinstance(targets, list | tuple) or len(targets) != len(images):
        received = f"{len(targets)} of them" if isinstance(targets, list | tuple) else _kind(targets)
        raise InputError(f"targets must be one dict per image in training mode, not {received}")
    checked = []
    for i, (target, image) in enumerate(zip(targets, images, strict=True)):
        name = f"targets[{i}]"
        if not isinstance(target, Mapping):
            raise InputError(f"{name} is {_kind(target)}; a dict is expected")
        needed = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
        if lacking := [key for key in sorted(needed) if key not in target]:
            raise InputError(f"{name} lacks {', '.join(lacking)}")
        for key in needed:
            _check_tensor(f"{name} {key}", target[key])
        boxes = _check_boxes(name, target["boxes"], target["labels"], *image.shape[1:])
        _check_labels(name, target["labels"], num_classes)
        if masks:
            _check_masks(name, target["masks"], (len(boxes), *image.shape[1:]))
        checked.append({**target, "boxes": boxes})
    return checked


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is {_kind(value)}; a tensor is expected")
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        raise InputError(f"{name} is a sparse, meta, quantized or complex tensor; its values are needed")


def _check_boxes(name: str, boxes: Tensor, labels: Tensor, height: int, width: int) -> Tensor:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1] or boxes.dtype == torch.bool:
        raise InputError(f"{name} has boxes {_kind(boxes)} and labels {_kind(labels)}; [N, 4] and [N] are expected")
    boxes = boxes.float()
    bad = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1))
    if bad.any():
        raise InputError(f"{name} {_row(boxes, bad)}; x0 < x1 and y0 < y1 are expected")
    outside = (boxes[:, :2] < -OUTSIDE).any(1) | (boxes[:, 2:] > boxes.new_tensor([width, height]) + OUTSIDE).any(1)
    if outside.any():
        raise InputError(f"{name} {_row(boxes, outside)}, outside of its image of {width} x {height} pixels")
    if len(boxes) and boxes.max() <= 1 and (boxes[:, 2:] - boxes[:, :2] < 1).any():
        raise InputError(f"{name} has boxes from 0 to 1; pixels are expected, not fractions of the image")
    return boxes


def _row(boxes: Tensor, wrong: Tensor) -> str:
    row = int(wrong.nonzero()[0])
    return f"box {row} is {boxes[row].tolist()}"


def _check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    if labels.dtype != torch.int64:
        raise InputError(f"{name} has labels of {labels.dtype}; torch.int64 is expected")
    if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= num_classes:
        low, high = int(labels.min()), int(labels.max())
        raise InputError(f"{name} has labels from {low} to {high}; 1 to {num_classes} are allowed")


def _check_masks(name: str, masks: Tensor, shape: tuple[int, ...]) -> None:
    if masks.shape != shape:
        raise InputError(f"{name} has masks {list(masks.shape)}; {list(shape)} is expected, to fit its boxes and image")
    if not ((masks == 0) | (masks == 1)).all():
        raise InputError(f"{name} has masks with other values than 0 and 1, such as {masks.max().item()}")
