"""The protocol of the mini-benchmark: its constants, source models and targets, and how the truth is measured."""

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

WIDTHS = (32, 64)
SOURCE_EPOCHS, SOURCE_LR = 20, 2e-3
SEEDS = 10
TRAIN, BATCH, EPOCHS, LR = 100, 20, 12, 0.1
PROBE, RUNS = 200, (0, 1, 2)
TRAIN_RUN = 100  # the subsets to train on are probes too, of other runs than those for the scores
REFERENCE = "cnn-64"  # rsa and dds: trained from scratch on the target's pool
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
    """A source model; its name is ``architecture-width/source``."""

    architecture: str
    width: int
    source: str

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.architecture}-{self.width}/{self.source}"


MODELS = [Micro(a, w, s) for s in SOURCES for a in ARCHITECTURES for w in WIDTHS]


@dataclass(frozen=True)
class Split:
    """A target: a pool to label, probe and fine-tune on, and held-out images. Images are float [N, 3, 12, 12]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def inputs(task: Task) -> tuple[Tensor, Tensor]:
    """Images from -1 to 1, and labels, as the models take them."""
    return torch.from_numpy(np.ascontiguousarray(task.x)) * 2 - 1, torch.from_numpy(np.ascontiguousarray(task.y))


@cache
def target(name: str) -> Split:
    """The two halves of a target."""
    task = TARGETS[name]()
    x, y = inputs(task)
    half = len(y) // 2
    return Split(x[:half], y[:half], x[half:], y[half:], task.classes)


@cache
def source_task(name: str) -> Task:
    """A source task, made once."""
    return SOURCES[name]()


def seed_of(*names: str) -> int:
    """A seed from names, the same everywhere."""
    return zlib.crc32("|".join(names).encode())


def train(micro: Micro) -> nn.Module:
    """Train a source model on its task, from a seed of its name."""
    task = source_task(micro.source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(micro.name))
        model = ARCHITECTURES[micro.architecture].build(micro.width, task.classes)
    if micro.source != "untrained":
        x, y = inputs(task)
        train_source(model, x, y, epochs=SOURCE_EPOCHS, lr=SOURCE_LR, seed=seed_of(micro.name, "order"))
    return model.eval()


def truth(model: nn.Module, micro: Micro, name: str) -> NDArray[np.float64]:
    """Accuracy in percent on the target's held-out images after fine-tuning, by seed, float64 [10]."""
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
        batch_size=BATCH,
        seeds=seeds,
    )


def reference(name: str) -> nn.Module:
    """The model trained from scratch on a target's pool, for the scores that compare with one."""
    split = target(name)
    architecture, width = REFERENCE.split("-")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("reference", name))
        model = ARCHITECTURES[architecture].build(int(width), split.classes)
    train_source(model, split.x, split.y, epochs=SOURCE_EPOCHS, lr=SOURCE_LR, seed=seed_of("reference", name, "order"))
    return model.eval()
