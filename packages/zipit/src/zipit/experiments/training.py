"""Handwritten digits, and the training of a network on some of them.

The digits are scikit-learn's, 1797 images of 8 x 8. Half of each class is trained on and half is tested on, and the
split depends on the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from zipit.evaluation import class_scores
from zipit.experiments.networks import EMBEDDING

SCALE = 20.0
"""What cosines are multiplied by, to be logits."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        optimizer: Makes the optimizer of parameters.
        epochs: Number of epochs. The learning rate grows during the first fifth, and then falls to 0.
        batch_size: Images in a batch.
    """

    optimizer: Callable[..., torch.optim.Optimizer]
    epochs: int
    batch_size: int = 64


@dataclass(frozen=True)
class Digits:
    """Digits of one split into two halves.

    Attributes:
        train: Images, float [N, 1, 8, 8] from -1 to 1.
        train_labels: int64 [N].
        test: Images of the other half.
        test_labels: Their labels.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def digits(seed: int) -> Digits:
    """Return the digits, divided at random into halves with the same share of each class."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(data.target).long()
    train, test = train_test_split(range(len(labels)), test_size=0.5, random_state=seed, stratify=data.target)
    return Digits(images[train], labels[train], images[test], labels[test])


def class_vectors(classes: int = 10) -> Tensor:
    """Return a vector of length 1 for each class, orthogonal to the others, [K, D]. They are always the same."""
    random = torch.randn(EMBEDDING, classes, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(random).Q.T.contiguous()


def train(
    network: Callable[[], nn.Module], data: Digits, classes: Sequence[int], recipe: Recipe, seed: int
) -> nn.Module:
    """Train a network on the images of some classes, so that its outputs point to the vectors of their classes.

    Args:
        network: Makes the network.
        data: The digits.
        classes: The classes that the network sees.
        recipe: How it is trained.
        seed: Seed of the weights and of the order of the images.
    """
    torch.manual_seed(seed)
    model = network()
    own = torch.isin(data.train_labels, torch.tensor(classes))
    images, targets = data.train[own], (data.train_labels[own, None] == torch.tensor(classes)).long().argmax(1)
    vectors = class_vectors()[list(classes)]
    optimizer = recipe.optimizer(model.parameters())
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(5 * (step + 1) / steps, 1.25 * (1 - step / steps))
    )
    for _ in range(recipe.epochs):
        for part in torch.randperm(len(images)).split(recipe.batch_size):
            loss = F.cross_entropy(class_scores(model(images[part]), vectors, SCALE), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()
