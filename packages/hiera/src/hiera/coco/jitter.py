"""Large-scale jitter, the augmentation of the papers' detectors (arXiv 2012.07177)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from hiera.coco.datasets import Target
from hiera.configs import DETECTION_MEAN
from plm_core import InputError


class LargeScaleJitter:
    """Flip an image, resize it by a random factor, and crop or pad it to a fixed size.

    Boxes shrink to the part of their object's mask that is left. Objects whose box is then less than one pixel wide or
    high are dropped.

    Args:
        size: Side of the resulting image in pixels.
        scale: Smallest and largest ratio of the resized image's longer side to ``size``.
    """

    def __init__(self, size: int, scale: tuple[float, float] = (0.1, 2.0)) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise InputError(f"scale {scale} is not allowed: (smallest, largest), both more than 0, is expected")
        self.geometry = v2.Compose(
            [v2.RandomHorizontalFlip(), v2.ScaleJitter((size, size), scale_range=scale), _FixedCrop(size)]
        )

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Augment an image and its target: [3, H, W] -> [3, size, size]."""
        image, target = self.geometry(image, target)
        boxes = target["boxes"]
        if "masks" in target:
            boxes = tv_tensors.wrap(_tight(target["masks"]), like=boxes)
            target["area"] = target["masks"].sum((1, 2)).float()
        else:
            target["area"] = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        keep = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        target["boxes"] = boxes
        rows = {k: target[k] for k in ("boxes", "labels", "masks", "area", "iscrowd") if k in target}
        for name, value in rows.items():
            kept = value[keep]
            target[name] = tv_tensors.wrap(kept, like=value) if isinstance(value, tv_tensors.TVTensor) else kept
        return image, target


class _FixedCrop(v2.Transform):
    """A crop to a random window of at most ``size``, padded at the bottom and right with the mean colour."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the position of the window."""
        sides = v2.query_size(flat_inputs)
        top, left = (int(torch.randint(max(side - self.size, 0) + 1, ())) for side in sides)
        height, width = (min(side, self.size) for side in sides)
        return {"window": [top, left, height, width], "padding": [0, 0, self.size - width, self.size - height]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and pad an image, boxes or masks."""
        fill = list(DETECTION_MEAN) if isinstance(inpt, tv_tensors.Image) else 0
        return tvf.pad(tvf.crop(inpt, *params["window"]), params["padding"], fill=fill)


def _tight(masks: Tensor) -> Tensor:
    """Return the box around each mask [N, H, W]; all zeros for an empty mask."""
    boxes = torch.zeros(len(masks), 4)
    for i, mask in enumerate(masks.as_subclass(Tensor)):
        y, x = torch.where(mask)
        if len(y):
            boxes[i] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return boxes
