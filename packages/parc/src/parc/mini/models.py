"""The micro models of the mini-benchmark, and how they are trained on a source task and fine-tuned on a target.

Images are 12x12 RGB. Every model ends in a linear head, and the features are the input of the head. No model has batch
statistics, so the fine-tunings of one model with several seeds run at the same time: parameters are stacked, and
``torch.func.vmap`` runs the copies side by side without any influence on one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

SIZE = 12


class Mlp(nn.Module):
    """An MLP with two hidden layers."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * SIZE * SIZE, 2 * width)
        self.last = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, 12, 12] -> features [B, width]."""
        return F.relu(self.last(F.relu(self.hidden(x.flatten(1)))))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, 12, 12] -> logits [B, classes]."""
        return self.head(self.features(x))


class Cnn(nn.Module):
    """A CNN with three convolutions and the mean over positions."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width // 2, 5, stride=3, padding=1)
        self.middle = nn.Conv2d(width // 2, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 2, stride=2)
        # without norms, the default weights would be too small to learn from
        for conv in (self.stem, self.middle, self.last):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, 12, 12] -> features [B, width]."""
        return F.relu(self.last(F.relu(self.middle(F.relu(self.stem(x)))))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, 12, 12] -> logits [B, classes]."""
        return self.head(self.features(x))


class Mixer(nn.Module):
    """A mixer: 16 patches of 3x3 pixels, two residual blocks that mix patches and channels, the mean over patches."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Linear(27, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.across = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, 12, 12] -> features [B, width]."""
        x = self.patches(_patches(x))
        for i in range(2):
            x = x + F.gelu(self.across[i](self.norms[2 * i](x).transpose(1, 2))).transpose(1, 2)
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x))))
        return self.norms[4](x).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, 12, 12] -> logits [B, classes]."""
        return self.head(self.features(x))


def _patches(x: Tensor) -> Tensor:
    """Images [B, 3, 12, 12] -> 16 patches of 3x3 pixels [B, 16, 27]."""
    return x.unflatten(2, (4, 3)).unflatten(4, (4, 3)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class Architecture:
    """An architecture of the mini-benchmark."""

    build: Callable[[int, int], nn.Module]
    """Constructor ``build(width, classes)``, where width is the number of features."""
    layers: int
    """Number of layers in sequence."""


ARCHITECTURES = {
    "mlp": Architecture(Mlp, 3),
    "cnn": Architecture(Cnn, 4),
    "mixer": Architecture(Mixer, 10),
}


def train_source(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, seed: int) -> None:
    """Train a model on its source task, in place: AdamW, cosine schedule, batches of 64 images.

    Args:
        model: A model of an `Architecture`.
        x: Images, float [N, 3, 12, 12].
        y: Labels, int64 [N].
        epochs: Number of passes over the images.
        lr: Peak learning rate.
        seed: Seed of the order of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(y) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=generator)
        for batch in order[: len(y) // 64 * 64].view(-1, 64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()


def finetune(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    subsets: Tensor,
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    lr: float,
    epochs: int,
    batch_size: int,
    seeds: Sequence[int],
) -> NDArray[np.float64]:
    """Fine-tune copies of a model with a new head, one copy per seed, by SGD with momentum 0.9 and a cosine schedule.

    No parameter is frozen.

    Args:
        model: The source model. It is not changed.
        x: Images of the target's pool, float [N, 3, 12, 12].
        y: Labels of the pool, int64 [N].
        subsets: Indices of the images that each seed trains on, int64 [S, M].
        test: Images and labels that no seed trains on.
        classes: Number of classes of the target.
        lr: Peak learning rate.
        epochs: Number of passes over the M images.
        batch_size: Number of images per step and seed. M is a multiple of it.
        seeds: Seeds of the head and of the order of the images, S of them.

    Returns:
        Accuracy in percent by seed, float64 [S].
    """
    count, size = subsets.shape
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stacked = {k: v.detach().expand(count, *v.shape).clone() for k, v in model.named_parameters()}
    width = stacked["head.weight"].shape[-1]
    stacked["head.weight"] = torch.stack([torch.randn(classes, width, generator=g) for g in generators]) / width
    stacked["head.bias"] = torch.zeros(count, classes)
    for value in stacked.values():
        value.requires_grad_(True)
    run = torch.func.vmap(lambda parameters, images: torch.func.functional_call(model, parameters, (images,)))
    optimizer = torch.optim.SGD(stacked.values(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (size // batch_size))
    for _ in range(epochs):
        order = torch.stack([torch.randperm(size, generator=g) for g in generators])
        for indices in subsets.gather(1, order).split(batch_size, 1):
            logits = run(stacked, x[indices])
            optimizer.zero_grad()
            # the sum over copies, so each copy gets the gradient that it would get alone
            F.cross_entropy(logits.flatten(0, 1), y[indices].flatten(), reduction="sum").div(batch_size).backward()
            _clip(stacked, 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        answers = torch.func.vmap(
            lambda parameters: torch.func.functional_call(model, parameters, (test[0],)).argmax(-1)
        )(stacked)
    return (answers == test[1]).double().mean(1).mul(100).numpy()


def _clip(stacked: dict[str, Tensor], max_norm: float) -> None:
    """Clip the norm of each copy's gradient."""
    gradients = [value.grad for value in stacked.values() if value.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    factor = (max_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
