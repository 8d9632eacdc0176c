"""Detection data in COCO's format, with its augmentation, its score and the loss for training.

`CocoDetection` reads a folder of images and an instances file, `ShapesDetection` offers the scenes of
`plm_core.shapes` in the same form, and `write_coco` writes any such dataset to a folder. `evaluate` computes COCO's
mean average precision. All of this needs the extra ``hiera[detection]``.

An item is an image, float [3, H, W] from 0 to 1, and a target: ``boxes`` float32 [N, 4] (x0, y0, x1, y1 in pixels),
``labels`` int64 [N] from 1, ``masks`` uint8 [N, H, W], ``area`` float32 [N], ``iscrowd`` int64 [N] and ``image_id``.
"""

from __future__ import annotations

from hiera.coco.batches import collate, loss
from hiera.coco.datasets import CocoDetection, DetectionDataset, ShapesDetection
from hiera.coco.jitter import LargeScaleJitter
from hiera.coco.scores import evaluate
from hiera.coco.writing import write_coco

__all__ = [
    "CocoDetection",
    "DetectionDataset",
    "LargeScaleJitter",
    "ShapesDetection",
    "collate",
    "evaluate",
    "loss",
    "write_coco",
]
