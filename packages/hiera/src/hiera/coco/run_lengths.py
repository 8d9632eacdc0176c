"""The conversion of masks to and from COCO's run lengths, with pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plm_core import MissingDependency

try:
    from pycocotools import mask as rle
except ModuleNotFoundError as e:
    raise MissingDependency("COCO data and scores need pycocotools: install hiera[detection]") from e

RunLengths = dict[str, Any]


def encode_mask(mask: Tensor) -> RunLengths:
    """Encode a mask [H, W] as run lengths that can be stored in JSON."""
    code = rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def decode_masks(masks: Sequence[RunLengths | None], size: tuple[int, int]) -> Tensor:
    """Decode run lengths to masks, uint8 [N, *size]; None becomes an empty mask."""
    decoded = torch.zeros(len(masks), *size, dtype=torch.uint8)
    if codes := {row: code for row, code in enumerate(masks) if code is not None}:
        pixels = rle.decode(list(codes.values())).transpose(2, 0, 1)
        decoded[list(codes)] = torch.from_numpy(np.ascontiguousarray(pixels))
    return decoded


def from_segmentation(segmentation: Any, height: int, width: int) -> RunLengths | None:
    """Convert an annotation's polygons or run lengths to compressed run lengths; return None if it has neither."""
    try:
        if isinstance(segmentation, list):
            # pycocotools would read four numbers as a box
            polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()]
            return rle.merge(rle.frPyObjects(polygons, height, width)) if polygons else None
        if not isinstance(segmentation, dict) or list(segmentation["size"]) != [height, width]:
            return None
        if isinstance(segmentation["counts"], list):
            code = rle.frPyObjects(segmentation, height, width)
        else:
            code = {"size": [height, width], "counts": segmentation["counts"]}
        rle.decode(code)  # fail now rather than in the middle of training
        return code
    except (KeyError, TypeError, ValueError):
        return None


def mask_area(code: RunLengths) -> float:
    """Return the number of pixels of a mask."""
    return float(rle.area(code))
