"""Large-scale jitter, the augmentation of the papers' detectors (arXiv 2012.07177)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from hiera.coco.datasets import Target
from hiera.configs import DETECTION_MEAN
from hiera.detection.regions import sample_masks
from plm_core import InputError


class LargeScaleJitter:
    """Flip an image, resize it by a random factor, and crop or pad it to a fixed size.

    Boxes shrink to the part of their object's mask that is left, and keep fractions of a pixel. Masks are sampled at
    the centres of the pixels. Objects whose box is then less than one pixel wide or high are dropped. For an object
    without a mask (all zeros), its box counts.

    Args:
        size: Side of the resulting image in pixels.
        scale: Smallest and largest ratio of the resized image's longer side to ``size``.

    Raises:
        InputError: ``size`` or ``scale`` is not allowed.
    """

    def __init__(self, size: int, scale: tuple[float, float] = (0.1, 2.0)) -> None:
        if not 0 < scale[0] <= scale[1] < float("inf"):
            raise InputError(f"scale {scale} is not allowed: (smallest, largest), both more than 0, is expected")
        if size < 1:
            raise InputError(f"size {size} is not allowed: 1 or more is")
        self.size, self.scale = size, scale
        self.flip = v2.RandomHorizontalFlip()

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Augment an image and its target: [3, H, W] -> [3, size, size]."""
        image, target = self.flip(image, target)
        old = image.shape[-2:]
        smallest, largest = self.scale
        factor = self.size / max(old) * (smallest + (largest - smallest) * float(torch.rand(())))
        new = [max(int(side * factor), 1) for side in old]
        height, width = (min(side, self.size) for side in new)
        top, left = (int(torch.randint(max(side - self.size, 0) + 1, ())) for side in new)
        right, bottom = self.size - width, self.size - height

        masks = target["masks"].as_subclass(Tensor) if "masks" in target else None
        corner = torch.tensor([left, top], dtype=torch.float64).repeat(2)
        far = torch.tensor([left + width, top + height], dtype=torch.float64).repeat(2)
        ratio = torch.tensor([new[1] / old[1], new[0] / old[0]], dtype=torch.float64).repeat(2)
        boxes = target["boxes"].as_subclass(Tensor)
        if masks is not None:
            boxes = _left_over(boxes, masks, corner / ratio, far / ratio)
        boxes = ((boxes.double() * ratio).clamp(corner, far) - corner).float()
        rows = {"boxes": boxes, "labels": target["labels"], "iscrowd": target["iscrowd"]}
        rows["area"] = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if masks is not None:
            sampled = sample_masks(masks, new)[:, top : top + height, left : left + width]
            rows["masks"] = F.pad(sampled, (0, right, 0, bottom))
            pixels = rows["masks"].sum((1, 2)).float()
            rows["area"] = torch.where(pixels > 0, pixels, rows["area"])
        image = tvf.crop(tvf.resize(image, new, antialias=True), top, left, height, width)
        image = tvf.pad(image, [0, 0, right, bottom], fill=list(DETECTION_MEAN))
        keep = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        return image, {**target, **_wrapped({name: value[keep] for name, value in rows.items()}, self.size)}


def _wrapped(rows: Target, size: int) -> Target:
    """Mark boxes and masks as torchvision's transforms know them."""
    rows["boxes"] = tv_tensors.BoundingBoxes(rows["boxes"], format="XYXY", canvas_size=(size, size))
    return rows | ({"masks": tv_tensors.Mask(rows["masks"])} if "masks" in rows else {})


def _left_over(boxes: Tensor, masks: Tensor, corner: Tensor, far: Tensor) -> Tensor:
    """Return the box around the part of each mask [N, H, W] in a window, whose edges (x, y) may cut pixels.

    The box of a mask that is empty everywhere is returned unchanged. A mask that is empty in the window only gets an
    empty box.
    """
    x0, y0 = corner[:2].floor().int().tolist()
    x1, y1 = far[:2].ceil().int().tolist()
    part = masks[:, y0:y1, x0:x1] > 0
    ends = []
    for line, start in ((part.any(1), x0), (part.any(2), y0)):
        first, last = line.byte().argmax(1), line.shape[1] - line.flip(1).byte().argmax(1)
        ends.append((start + first, start + torch.where(line.any(1), last, first)))
    (left, right), (top, bottom) = ends
    tight = torch.stack([left, top, right, bottom], 1).to(boxes.dtype)
    return torch.where((masks > 0).flatten(1).any(1)[:, None], tight, boxes)
