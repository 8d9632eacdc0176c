"""Supervised training of classifiers as in the papers: with mixup and cutmix, label smoothing and augmentation.

A config is data, and `dataclasses.replace` makes a changed one. The loop is `plm_core.training.fit`. Training needs the
extra ``plm-core[train]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from plm_core.errors import InputError
from plm_core.training.checks import AT_LEAST_0, RATE, SCALE, SHARE, check_config
from plm_core.training.evaluation import eval_mode
from plm_core.training.loop import TrainResult, fit
from plm_core.training.recipe import Recipe
from plm_core.utils.images import Channels
from plm_core.utils.progress import track
from plm_core.utils.text import first_line

POLICIES = ("rand", "augmix", "original", "v0", "3a")
"""What timm's names of augmentation policies begin with."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The settings of a supervised training of a classifier, from pretrained weights or from scratch.

    Attributes:
        recipe: The optimisation.
        drop_path: Drop-path rate of the last block.
        dropout: Dropout rate before the classifier.
        auto_augment: RandAugment policy, as timm spells it; None for no RandAugment.
        mixup: Alpha of mixup; 0 for no mixup.
        cutmix: Alpha of cutmix; 0 for no cutmix.
        smoothing: Label smoothing.
        scale: Smallest and largest area of a random crop, as fractions of the image.
        hflip: Probability of a horizontal flip; 0 if a flip can change the label.
    """

    recipe: Recipe
    drop_path: float = 0.1
    dropout: float = 0.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5

    def __post_init__(self) -> None:
        check_config(
            self,
            drop_path=RATE,
            dropout=RATE,
            auto_augment=(
                lambda policy: policy.startswith(POLICIES),
                "None or a policy of timm, as 'rand-m9-mstd0.5',",
            ),
            mixup=AT_LEAST_0,
            cutmix=AT_LEAST_0,
            smoothing=RATE,
            scale=SCALE,
            hflip=SHARE,
        )

    @classmethod
    def plain(cls, recipe: Recipe, **fields: Any) -> Self:
        """Return the settings for a model too small for drop path, RandAugment, mixup and cutmix: without them.

        Args:
            recipe: The optimisation.
            **fields: Further fields.
        """
        return cls(recipe=recipe, drop_path=0.0, auto_augment=None, mixup=0.0, cutmix=0.0, **fields)


def finetune(
    model: nn.Module, data: Dataset[Any], config: FinetuneConfig, num_classes: int, **options: Any
) -> TrainResult:
    """Train a classifier in place with `plm_core.training.fit`.

    Args:
        model: A model that returns logits [B, num_classes] in training mode, as any timm model does.
        data: A dataset of (input, label), such as a folder dataset with `finetune_transform`.
        config: The settings. Drop path and dropout belong to the model, so create it with these rates.
        num_classes: Number of classes.
        **options: Options of `fit`.
    """
    mix = mixer(config, num_classes)
    criterion = SoftTargetCrossEntropy() if mix else nn.CrossEntropyLoss(label_smoothing=config.smoothing)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = mix(*batch) if mix else batch
        value: Tensor = criterion(model(x), y)
        return value

    return fit(model, data, loss, config.recipe, **options)


def mixer(config: FinetuneConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return timm's mixup and cutmix as a function (inputs, labels) -> (inputs, soft labels).

    It mixes the first sample of a batch with the last, the second with the last but one, and so on. All frames of a
    clip are mixed alike. It raises InputError for an odd batch, which timm refuses.

    Returns:
        The function, or None if the config has neither mixup nor cutmix.
    """
    if not (config.mixup or config.cutmix):
        return None
    mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=num_classes)

    def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) % 2:
            raise InputError(
                f"mixup and cutmix need an even batch, not {len(x)} samples at once: see per_device_batch_size"
            )
        images = x.flatten(1, 2).clone() if x.ndim == 5 else x.clone()  # timm mixes in place, and takes 4 dimensions
        images, soft = mixup(images, y)
        return images.view_as(x), soft

    return mix


def finetune_transform(
    size: Sequence[int], config: FinetuneConfig, mean: Sequence[float], std: Sequence[float], channels: int = 3
) -> Any:
    """Return the training preprocessing, PIL image of any mode -> float [channels, height, width].

    The image is cropped and flipped at random, augmented with RandAugment, and normalised.

    Raises:
        InputError: An image cannot have this number of channels, or timm does not know the policy.
    """
    try:
        augment = create_transform(
            (channels, *size),
            is_training=True,
            scale=config.scale,
            hflip=config.hflip,
            color_jitter=None,
            auto_augment=config.auto_augment,
            interpolation="bicubic",
            mean=tuple(mean),
            std=tuple(std),
        )
    except (ValueError, TypeError, AssertionError, LookupError) as e:  # as timm refuses parts of a policy
        raise InputError(f"auto_augment {config.auto_augment!r} is not allowed: {first_line(e)}") from e
    return Compose([Channels(channels), augment])


def accuracy(model: nn.Module, data: Dataset[Any], batch_size: int = 64, num_workers: int = 0) -> float:
    """Compute the top-1 accuracy of a classifier in percent, on a dataset of (input, label).

    The model runs in eval mode, and its previous mode is restored afterwards.
    """
    correct = total = 0
    device = next(model.parameters()).device
    with eval_mode(model), torch.inference_mode():
        loader = torch.utils.data.DataLoader(data, batch_size, num_workers=num_workers)
        for x, y in track(loader, "evaluating", len(loader)):
            correct += int((model(x.to(device)).argmax(1).cpu() == y).sum())
            total += len(y)
    return 100 * correct / total
