"""What ``plm merge`` compares: models, their ensemble and merges of them, by accuracy, operations and parameters.

Shapes: B images, C classes of the data, K classes of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zipit.evaluation import joint_accuracy, task_accuracy

ABSENT = -1
"""The number of a class that a model does not have."""


@dataclass(frozen=True)
class Contender:
    """A model to compare.

    Attributes:
        name: Its name in the table.
        model: The model, in eval mode. It gives logits [B, K], or a list of them.
        classes: For each of these, the number of each class of the data there, or `ABSENT`, [C]. None if the meaning of
            its outputs is not known.
    """

    name: str
    model: nn.Module
    classes: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Compared:
    """The row of a contender.

    Attributes:
        name: Its name.
        accuracy: Share of the images whose class has the best score of all classes, in percent. None if not known.
        tasks: Mean over the models of this share among the classes of a model. None if all have the same.
        flops: Operations for one image, where a multiplication with an addition counts as two.
        parameters: Number of parameters.
    """

    name: str
    accuracy: float | None
    tasks: float | None
    flops: int
    parameters: int


class Ensemble(nn.Module):
    """Several models that are all run.

    Args:
        models: The models.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> list[Any]:
        """Return the outputs of the models."""
        return [model(x) for model in self.models]


def numbers_of(names: Iterable[Sequence[str]], classes: Sequence[str]) -> list[int]:
    """Return the number that each class of the data has in a model, or `ABSENT`, [C].

    Args:
        names: Lists of the names of the model's classes, each in their order.
        classes: Names of the classes of the data.
    """
    best = [ABSENT] * len(classes)
    for spelling in names:
        table = {name.casefold(): number for number, name in enumerate(spelling)}
        found = [table.get(name.casefold(), ABSENT) for name in classes]
        if found.count(ABSENT) < best.count(ABSENT):
            best = found
    return best


def scores(outputs: Tensor | Sequence[Tensor], classes: Sequence[Sequence[int]]) -> Tensor:
    """Return a score of each class of the data, float32 [B, C]: its mean probability in the models that have it.

    Args:
        outputs: Logits [B, K], or a list of them.
        classes: See `Contender`.

    Returns:
        The scores, `ABSENT` for a class that no model has.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    parts, known = [], []
    for logits, numbers in zip(outputs, classes, strict=True):
        index = torch.tensor(numbers, device=logits.device)
        known.append((index != ABSENT).float())
        parts.append(logits.float().softmax(-1)[:, index.clamp_min(0)] * known[-1])
    count = torch.stack(known).sum(0)
    return torch.where(count > 0, torch.stack(parts).sum(0) / count.clamp_min(1), float(ABSENT))


@torch.no_grad()
def accuracies(
    contenders: Sequence[Contender], batches: Iterable[tuple[Tensor, Tensor]], tasks: Sequence[Sequence[int]]
) -> Mapping[str, tuple[float, float | None]]:
    """Return the accuracy and the mean over tasks of each contender with known classes, by its name.

    Args:
        contenders: The contenders.
        batches: Images [B, ...] with their classes [B].
        tasks: Numbers of the classes of each model. None are given if all have the same.
    """
    known = [contender for contender in contenders if contender.classes]
    found: dict[str, list[Tensor]] = {contender.name: [] for contender in known}
    labels: list[Tensor] = []
    for x, y in batches:
        labels.append(y)
        for contender in known:
            weight = next(contender.model.parameters())
            found[contender.name].append(scores(contender.model(x.to(weight)), contender.classes or ()).cpu())
    every = torch.cat(labels)
    present = [task for task in tasks if torch.isin(every, torch.tensor(task)).any()]
    return {name: _accuracy(torch.cat(parts), every, present) for name, parts in found.items()}


def _accuracy(found: Tensor, labels: Tensor, tasks: Sequence[Sequence[int]]) -> tuple[float, float | None]:
    shares = [task_accuracy(found, labels, task) for task in tasks]
    return joint_accuracy(found, labels), sum(shares) / len(shares) if shares else None
