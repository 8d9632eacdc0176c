"""Mask R-CNN and Cascade Mask R-CNN on HieraDet or ViTDet: the detectors of the Hiera and Absolute Win papers.

    model = detector(hiera.HieraDet(), num_classes=80)             # images and targets in, losses or detections out

`hiera.coco` provides the data, the score and the loss for training.
"""

from __future__ import annotations

from hiera.detection.pyramid import Pyramid, SimplePyramid
from hiera.detection.rcnn import Anchors, Detector, detector, hiera_detector, micro_detector

__all__ = ["Anchors", "Detector", "Pyramid", "SimplePyramid", "detector", "hiera_detector", "micro_detector"]
