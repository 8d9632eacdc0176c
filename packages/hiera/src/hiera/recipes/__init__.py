"""The trainings of the papers: masked pretraining and finetuning on images and video, and detection.

    result = pretrain(model, data, PRETRAIN_IMAGE["base"])        # an autoencoder, on a dataset of (input, anything)

The settings are those in the appendix of the Hiera paper. A configuration is data, and the loop is
`plm_core.training.fit`. `plm_core.training.finetuning` trains classifiers. The modules `pretraining` and `detecting`
are the recipes of ``plm train`` that plm-core does not have: from data to a model folder.
"""

from __future__ import annotations

from hiera.recipes.steps import detect, pretrain, pretrain_transform
from hiera.recipes.tables import (
    DETECT,
    DETECT_VIT,
    FINETUNE_IMAGE,
    FINETUNE_VIDEO,
    PRETRAIN_IMAGE,
    PRETRAIN_VIDEO,
    DetectConfig,
    PretrainConfig,
    VideoFinetuneConfig,
    VideoPretrainConfig,
)

__all__ = [
    "DETECT",
    "DETECT_VIT",
    "FINETUNE_IMAGE",
    "FINETUNE_VIDEO",
    "PRETRAIN_IMAGE",
    "PRETRAIN_VIDEO",
    "DetectConfig",
    "PretrainConfig",
    "VideoFinetuneConfig",
    "VideoPretrainConfig",
    "detect",
    "pretrain",
    "pretrain_transform",
]
