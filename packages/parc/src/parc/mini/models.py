"""The micro models of the mini-benchmark, how they learn their source task and how they are fine-tuned.

Images are 12x12 RGB. All models end in a linear head, and what the head sees are the features. None has batch
statistics, so that the fine-tunings of one model with several seeds run as one: parameters are stacked and
``torch.func.vmap`` runs the copies side by side, which share no number with one another.
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
    """Two hidden layers."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * SIZE * SIZE, 2 * width)
        self.last = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, 12, 12] to [B, width]."""
        return F.relu(self.last(F.relu(self.hidden(x.flatten(1)))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


class Cnn(nn.Module):
    """Three convolutions and the mean over positions."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width // 2, 5, stride=3, padding=1)
        self.middle = nn.Conv2d(width // 2, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 2, stride=2)
        for conv in (self.stem, self.middle, self.last):  # without norms, the default would be too small to learn from
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, 12, 12] to [B, width]."""
        return F.relu(self.last(F.relu(self.middle(F.relu(self.stem(x)))))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


class Mixer(nn.Module):
    """16 patches of 3x3 pixels, two residual blocks that mix patches, then channels, and the mean over patches."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Linear(27, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.across = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, 12, 12] to [B, width]."""
        x = self.patches(_patches(x))
        for i in range(2):
            x = x + F.gelu(self.across[i](self.norms[2 * i](x).transpose(1, 2))).transpose(1, 2)
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x))))
        return self.norms[4](x).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


def _patches(x: Tensor) -> Tensor:
    """[B, 3, 12, 12] to 16 patches of 3x3 pixels, [B, 16, 27]."""
    return x.unflatten(2, (4, 3)).unflatten(4, (4, 3)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class Architecture:
    """How to build a model ``build(width, classes)``; width is that of its features; and its layers in sequence."""

    build: Callable[[int, int], nn.Module]
    layers: int


ARCHITECTURES = {
    "mlp": Architecture(Mlp, 3),
    "cnn": Architecture(Cnn, 4),
    "mixer": Architecture(Mixer, 10),
}


def train_source(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, seed: int) -> None:
    """Teach a model its source task, in place: AdamW, cosine, batches of 64.

    Args:
        model: From an `Architecture`.
        x: Images, float [N, 3, 12, 12].
        y: Labels, int64 [N].
        epochs: Passes over the images.
        lr: Peak rate.
        seed: Of the order.
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
    batch: int,
    seeds: Sequence[int],
) -> NDArray[np.float64]:
    """Fine-tune copies of a model with a fresh head, one for each seed; nothing is frozen. SGD, momentum 0.9, cosine.

    Args:
        model: The source model; it is not changed.
        x: Images of the target's pool, float [N, 3, 12, 12].
        y: Their labels, int64 [N].
        subsets: The images of the pool that each seed trains on, int64 [S, M].
        test: Images and labels that no seed trains on.
        classes: Of the target.
        lr: Peak rate.
        epochs: Passes over the M images.
        batch: Images per step and seed; M is a multiple.
        seeds: Of head and order, S of them.

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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (size // batch))
    for _ in range(epochs):
        order = torch.stack([torch.randperm(size, generator=g) for g in generators])
        for chosen in subsets.gather(1, order).split(batch, 1):
            logits = run(stacked, x[chosen])
            optimizer.zero_grad()
            # the sum, not the mean: each copy has the gradient that it would have alone
            F.cross_entropy(logits.flatten(0, 1), y[chosen].flatten(), reduction="sum").div(batch).backward()
            _clip(stacked, 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        answers = torch.func.vmap(
            lambda parameters: torch.func.functional_call(model, parameters, (test[0],)).argmax(-1)
        )(stacked)
    return (answers == test[1]).double().mean(1).mul(100).numpy()


def _clip(stacked: dict[str, Tensor], most: float) -> None:
    """Limit the norm of each copy's gradient."""
    gradients = [value.grad for value in stacked.values() if value.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    factor = (most / norm.clamp_min(1e-12)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
