"""The papers' trainings: masked pretraining and finetuning of images and video, detection (Hiera paper, appendix)."""

from __future__ import annotations

from hiera.recipes.tables import (
    DETECT,
    DETECT_VIT,
    FINETUNE_IMAGE,
    FINETUNE_VIDEO,
    PRETRAIN_IMAGE,
    PRETRAIN_VIDEO,
    Detecting,
    Finetuning,
    Pretraining,
    accuracy,
    detect,
    finetune,
    finetune_transform,
    mixer,
    pretrain,
    pretrain_transform,
    test_transform,
)

__all__ = [
    "DETECT",
    "DETECT_VIT",
    "FINETUNE_IMAGE",
    "FINETUNE_VIDEO",
    "PRETRAIN_IMAGE",
    "PRETRAIN_VIDEO",
    "Detecting",
    "Finetuning",
    "Pretraining",
    "accuracy",
    "detect",
    "finetune",
    "finetune_transform",
    "mixer",
    "pretrain",
    "pretrain_transform",
    "test_transform",
]
