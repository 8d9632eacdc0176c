"""Masked pretraining and the training of detectors. Classifiers are trained by `plm_core.training.finetuning`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from hiera.mae import MaskedAutoencoderHiera
from hiera.recipes.tables import DetectConfig, PretrainConfig
from plm_core.training import TrainResult, fit
from plm_core.training.finetuning import FinetuneConfig, finetune_transform


def pretrain(model: MaskedAutoencoderHiera, data: Dataset[Any], config: PretrainConfig, **options: Any) -> TrainResult:
    """Pretrain a masked autoencoder in place.

    Args:
        model: The model, built with ``drop_path_rate=config.drop_path``.
        data: A dataset of (input, anything). The input is float [in_chans, *size] and normalised, as
            `pretrain_transform` returns it.
        config: A configuration of `hiera.recipes`, or your own.
        **options: Keywords of `plm_core.training.fit`.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = model(batch[0], mask_ratio=config.mask_ratio)[0]
        return value

    return fit(model, data, loss, config.recipe, **options)


def detect(model: nn.Module, data: Dataset[Any], config: DetectConfig, **options: Any) -> TrainResult:
    """Train a detector in place.

    Args:
        model: A detector, as `hiera.detection.detector` builds it.
        data: A dataset such as `hiera.coco.CocoDetection` with `hiera.coco.LargeScaleJitter`.
        config: A configuration of `hiera.recipes`, or your own.
        **options: Keywords of `plm_core.training.fit`.
    """
    from hiera import coco  # imported here because it needs pycocotools, and other trainings do not

    return fit(model, data, coco.loss, config.recipe, collate=coco.collate, **options)


def pretrain_transform(
    size: Sequence[int], config: PretrainConfig, mean: Sequence[float], std: Sequence[float], channels: int = 3
) -> Any:
    """Return the training preprocessing, PIL image of any mode -> float [channels, height, width].

    The image is cropped and flipped at random, and normalised.
    """
    plain = FinetuneConfig(recipe=config.recipe, auto_augment=None, scale=config.scale, hflip=config.hflip)
    return finetune_transform(size, plain, mean, std, channels)
