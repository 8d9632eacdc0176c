"""What ``plm merge`` compares: models, their ensemble and merges of them, by accuracy, operations and parameters.

Shapes: B images, C classes of the data, K classes of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plm_core.datasets import Dataset, Pictures
from plm_core.models import class_names, transform_for
from plm_core.prediction.labels import labels_of
from plm_core.prediction.tasks import task_of
from plm_core.utils.progress import track
from zipit.evaluation import class_scores, flops, joint_accuracy, task_accuracy
from zipit.parts import Merged

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


class Comparison:
    """Models of one architecture, and the images that they and merges of them are judged by.

    Args:
        names: The names of the models.
        nets: The models, in eval mode, which take the same images.
        data: The images, with classes or without.
        batch_size: Number of images at once.
        texts: Embeddings of the names of all classes, [C, D], for models whose outputs are embeddings in the same
            space. None for models whose outputs are logits of classes.
    """

    def __init__(
        self,
        names: Sequence[str],
        nets: Sequence[nn.Module],
        data: Dataset,
        batch_size: int,
        texts: Tensor | None = None,
    ) -> None:
        self.names, self.nets, self.data, self.batch_size, self.texts = names, nets, data, batch_size, texts
        count = len(data.classes)
        self._numbers = [_numbers_in(net, data.classes) if texts is None else [*range(count)] for net in nets]
        numbers = [n for n in self._numbers if n is not None]
        self._every = numbers if numbers and len(numbers) == len(nets) else None
        self._same = numbers[:1] if self._every and all(n == numbers[0] for n in numbers) else None

    @property
    def judges_partial_merges(self) -> bool:
        """Return whether the accuracies of merges with heads can be known: if all models have classes of the data."""
        return self._every is not None

    @property
    def judges_whole_merges(self) -> bool:
        """Return whether the accuracies of merges of everything can be known: if all models have the same outputs."""
        return self._same is not None

    def rows(self, merges: Mapping[str, nn.Module], image: Tensor) -> list[Compared]:
        """Return a row for each model, for their ensemble and for each merge.

        Args:
            merges: The merges by their names.
            image: One input, [1, C, H, W], on the device of the models, for which operations are counted.
        """
        alone = [
            Contender(name, net, None if numbers is None else [numbers])
            for name, net, numbers in zip(self.names, self.nets, self._numbers, strict=True)
        ]
        contenders = [
            *alone,
            Contender("ensemble", Ensemble(self.nets), self._every),
            *(Contender(name, net, self._classes_of(net)) for name, net in merges.items()),
        ]
        contenders = [*_distinct(contenders)]
        found: Mapping[str, tuple[float, float | None]] = {}
        if any(contender.classes for contender in contenders):
            found = accuracies(contenders, self._batches("evaluating"), self._tasks(), self.texts)
        rows = []
        for contender in contenders:
            accuracy, mean = found.get(contender.name, (None, None))
            count = sum(p.numel() for p in contender.model.parameters())
            rows.append(Compared(contender.name, accuracy, mean, int(flops(contender.model, image)), count))
        return rows

    def accuracy(self, merged: nn.Module) -> float:
        """Return the accuracy of a merge whose accuracy can be known, in percent."""
        contender = Contender("merge", merged, self._classes_of(merged))
        return accuracies([contender], self._batches(""), [], self.texts)["merge"][0]

    def _classes_of(self, merged: nn.Module) -> Sequence[Sequence[int]] | None:
        return self._every if isinstance(merged, Merged) else self._same

    def _batches(self, label: str) -> Iterable[tuple[Tensor, Tensor]]:
        loader: DataLoader[Any] = DataLoader(Pictures(self.data, transform_for(self.nets[0])), self.batch_size)
        return track(loader, label, len(loader)) if label else loader

    def _tasks(self) -> list[list[int]]:
        """Return the classes of each model, or nothing if all have the same."""
        known = [numbers for numbers in self._numbers if numbers is not None]
        tasks = [[c for c, number in enumerate(numbers) if number != ABSENT] for numbers in known]
        return [] if all(task == tasks[0] for task in tasks) else tasks


def _distinct(contenders: Sequence[Contender]) -> Iterator[Contender]:
    """Yield contenders with names of their own: a model may be merged with itself, or be named like a method."""
    names = [contender.name for contender in contenders]
    for number, contender in enumerate(contenders, 1):
        twice = names.count(contender.name) > 1
        yield replace(contender, name=f"{contender.name} ({number})") if twice else contender


def _numbers_in(net: Any, classes: Sequence[str]) -> list[int] | None:
    """Return the number of each class of the data in a model; None if it has none of them."""
    count = getattr(net, "num_classes", 0)
    if not classes or not count:
        return None
    label = labels_of(net, task_of(net))
    names = [[label(number) for number in range(count)], *class_names(net)]
    numbers = numbers_of(names, classes)
    return None if set(numbers) == {ABSENT} else numbers


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


def scores(outputs: Sequence[Tensor], classes: Sequence[Sequence[int]]) -> Tensor:
    """Return a score of each class of the data, float32 [B, C]: its mean probability in the models that have it.

    Args:
        outputs: Logits [B, K] of each head.
        classes: See `Contender`.

    Returns:
        The scores, `ABSENT` for a class that no model has.
    """
    parts, known = [], []
    for logits, numbers in zip(outputs, classes, strict=True):
        index = torch.tensor(numbers, device=logits.device)
        known.append((index != ABSENT).float())
        parts.append(logits.float().softmax(-1)[:, index.clamp_min(0)] * known[-1])
    count = torch.stack(known).sum(0)
    return torch.where(count > 0, torch.stack(parts).sum(0) / count.clamp_min(1), float(ABSENT))


@torch.no_grad()
def accuracies(
    contenders: Sequence[Contender],
    batches: Iterable[tuple[Tensor, Tensor]],
    tasks: Sequence[Sequence[int]],
    texts: Tensor | None = None,
) -> Mapping[str, tuple[float, float | None]]:
    """Return the accuracy and the mean over tasks of each contender with known classes, by its name.

    Args:
        contenders: The contenders.
        batches: Images [B, ...] with their classes [B].
        tasks: Numbers of the classes of each model. None are given if all have the same.
        texts: See `Comparison`.
    """
    known = [contender for contender in contenders if contender.classes]
    found: dict[str, list[Tensor]] = {contender.name: [] for contender in known}
    labels: list[Tensor] = []
    for x, y in batches:
        labels.append(y)
        for contender in known:
            outputs = contender.model(x.to(next(contender.model.parameters())))
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            if texts is not None:
                outputs = [class_scores(output.float(), texts.to(output.device)) for output in outputs]
            found[contender.name].append(scores(outputs, contender.classes or ()).cpu())
    every = torch.cat(labels)
    present = [task for task in tasks if torch.isin(every, torch.tensor(task)).any()]
    return {name: _accuracy(torch.cat(parts), every, present) for name, parts in found.items()}


def _accuracy(found: Tensor, labels: Tensor, tasks: Sequence[Sequence[int]]) -> tuple[float, float | None]:
    shares = [task_accuracy(found, labels, task) for task in tasks]
    return joint_accuracy(found, labels), sum(shares) / len(shares) if shares else None
