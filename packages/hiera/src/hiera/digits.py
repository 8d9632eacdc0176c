"""The recipe of ``hiera_micro_digits``: a Hiera of 0.2M parameters that reads scikit-learn's digits.

``plm retrain hiera_micro_digits --out DIR`` runs `train`; half a minute on two cores. It needs the extra
``hiera[train]``. The loop is transformers' Trainer; what is here is the data, the augmentation and the loss.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

import plm_core
from plm_core import samples, weights
from plm_core.files import write_text

NAME = "hiera_micro_digits"
EPOCHS, BATCH, LR, WEIGHT_DECAY, LABEL_SMOOTHING = 40, 64, 2e-3, 0.05, 0.1
TOP1 = "held-out digits top-1 %"

CARD = """---
license: apache-2.0
library_name: timm
pipeline_tag: image-classification
tags: [hiera, plm]
---

# {name}

A Hiera (arXiv 2306.00989) of {params:,} parameters, trained from scratch to read handwritten digits. It is shipped so
that the hub can be tried and tested without a download; it is not a model of general use.

- **Data**: the 1797 8x8 digits of scikit-learn (UCI optical recognition of handwritten digits); every fifth image held
  out (360). Writers are in both splits.
- **Recipe**: `plm retrain {name} --seed {seed}` (module `hiera.digits`): {epochs} epochs, batch {batch}, AdamW
  lr {lr}, weight decay {decay}, cosine, label smoothing {smoothing}, small affine augmentation; no pretraining.
- **Held-out top-1**: {top1:.2f} %
- **Licence**: Apache-2.0, code and weights.
"""


class Digits(Dataset[dict[str, Tensor]]):
    """Digits under a model's own preprocessing, with a small random shift, turn and zoom."""

    def __init__(self, model: nn.Module) -> None:
        preprocess = plm_core.transform_for(model)
        images, labels = samples.digits("train")
        self.x = torch.stack([preprocess(image) for image in images])
        self.y = torch.from_numpy(labels)
        background = float(self.x.min())
        self.augment = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=background)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.augment(self.x[index]), "y": self.y[index]}


def train(out: Path, seed: int = 0, epochs: int = EPOCHS) -> Mapping[str, float]:
    """Train from scratch and write ``hiera_micro_digits.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Of initialisation, order and augmentation.
        epochs: Passes over the 1437 training digits.

    Returns:
        The held-out score, as `evaluate` gives it.

    Raises:
        MissingDependency: The extra hiera[train] is not installed.
    """
    try:
        from transformers import Trainer, TrainingArguments, set_seed
    except ModuleNotFoundError as e:
        raise plm_core.MissingDependency("training needs transformers: install hiera[train]") from e

    class DigitsTrainer(Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **_: Any) -> Tensor:
            return F.cross_entropy(model(inputs["x"]), inputs["y"], label_smoothing=LABEL_SMOOTHING)

    set_seed(seed)
    model = plm_core.create_model(NAME)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=LR,
            weight_decay=WEIGHT_DECAY,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            dataloader_pin_memory=False,  # one digit batch is not worth it, and torch warns where there is no GPU
            remove_unused_columns=False,
        )
        DigitsTrainer(model=model, args=arguments, train_dataset=Digits(model)).train()
    scores = evaluate(model.cpu())
    weights.save(model, out / f"{NAME}.safetensors")
    write_text(out / f"{NAME}.md", _card(model, seed, epochs, scores[TOP1]))
    return scores


def _card(model: nn.Module, seed: int, epochs: int, top1: float) -> str:
    return CARD.format(
        name=NAME,
        params=sum(p.numel() for p in model.parameters()),
        seed=seed,
        epochs=epochs,
        batch=BATCH,
        lr=LR,
        decay=WEIGHT_DECAY,
        smoothing=LABEL_SMOOTHING,
        top1=top1,
    )


@torch.inference_mode()
def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Top-1 in % of a classifier of ten digits on the 360 held-out ones."""
    preprocess = plm_core.transform_for(model)
    images, labels = samples.digits("heldout")
    model.eval()
    predicted = model(torch.stack([preprocess(image) for image in images])).argmax(1)
    return {TOP1: 100 * (predicted == torch.from_numpy(labels)).double().mean().item()}
