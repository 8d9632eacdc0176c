"""The protocol of the mini-benchmark: constants, source models and targets, and the measurement of the truth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parc.mini.models import ARCHITECTURES, finetune, train_source
from parc.mini.tasks import SOURCES, TARGETS, Task
from parc.sampling import sample_probe
from plm_core.utils.seeding import seeded_weights

WIDTHS = (32, 64)
SOURCE_EPOCHS, SOURCE_LR = 20, 2e-3
SEEDS = 10
TRAIN, BATCH_SIZE, EPOCHS, LR = 100, 20, 12, 0.1
PROBE, RUNS = 200, (0, 1, 2)
TRAIN_RUN = 100  # the images to train on are probes too, of other runs than the probes for the scores
REFERENCE = "cnn-64"  # model for rsa and dds, trained from scratch on the pool of the target
METHODS = (
    "parc",
    "parc:pca=32",
    "rsa",
    "dds",
    "leep",
    "nce",
    "nleep",
    "energy",
    "hscore",
    "hscore-shrunk",
    "lda-loo",
    "sfda",
    "gbc",
    "transrate",
    "logme",
    "knn",
    "split-knn",
    "logistic",
    "ridge-press",
)


@dataclass(frozen=True)
class Micro:
    """A source model."""

    architecture: str
    width: int
    source: str

    @property
    def name(self) -> str:
        """Name in the tables, ``architecture-width/source``."""
        return f"{self.architecture}-{self.width}/{self.source}"


MODELS = [Micro(a, w, s) for s in SOURCES for a in ARCHITECTURES for w in WIDTHS]


@dataclass(frozen=True)
class Split:
    """A target: a pool of labelled images for probes and fine-tuning, and held-out images, all float [N, 3, 12, 12]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def inputs(task: Task) -> tuple[Tensor, Tensor]:
    """Return images from -1 to 1 and labels, as tensors."""
    return torch.from_numpy(np.ascontiguousarray(task.x)) * 2 - 1, torch.from_numpy(np.ascontiguousarray(task.y))


@cache
def target(name: str) -> Split:
    """Return a target, split into its two halves."""
    task = TARGETS[name]()
    x, y = inputs(task)
    half = len(y) // 2
    return Split(x[:half], y[:half], x[half:], y[half:], task.classes)


@cache
def source_task(name: str) -> Task:
    """Return a source task. It is made once."""
    return SOURCES[name]()


def seed_of(*names: str) -> int:
    """Return a seed that depends on names only and is the same on every machine."""
    return zlib.crc32("|".join(names).encode())


def train(micro: Micro) -> nn.Module:
    """Train a source model on its task. The seed depends on its name."""
    task = source_task(micro.source)
    with seeded_weights(seed_of(micro.name)):
        model = ARCHITECTURES[micro.architecture].build(micro.width, task.classes)
    if micro.source != "untrained":
        x, y = inputs(task)
        train_source(model, x, y, epochs=SOURCE_EPOCHS, lr=SOURCE_LR, seed=seed_of(micro.name, "order"))
    return model.eval()


def truth(model: nn.Module, micro: Micro, name: str) -> NDArray[np.float64]:
    """Return the accuracy in percent on the held-out images of a target after fine-tuning, by seed, float64 [10]."""
    split = target(name)
    seeds = [seed_of(micro.name, name, str(seed)) for seed in range(SEEDS)]
    subsets = [sample_probe(split.y.numpy(), TRAIN, TRAIN_RUN + seed) for seed in range(SEEDS)]
    return finetune(
        model,
        split.x,
        split.y,
        torch.from_numpy(np.stack(subsets)),
        (split.test_x, split.test_y),
        classes=split.classes,
        lr=LR,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        seeds=seeds,
    )


def train_reference(name: str) -> nn.Module:
    """Train a model from scratch on the pool of a target, for the scores that compare with such a model."""
    split = target(name)
    architecture, width = REFERENCE.split("-")
    with seeded_weights(seed_of("reference", name)):
        model = ARCHITECTURES[architecture].build(int(width), split.classes)
    train_source(model, split.x, split.y, epochs=SOURCE_EPOCHS, lr=SOURCE_LR, seed=seed_of("reference", name, "order"))
    return model.eval()
