"""The accuracy of a classifier on labelled images, whose classes are matched with the model's by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from plm_core.datasets import Dataset, Pictures
from plm_core.datasets.splits import own_splits
from plm_core.errors import InputError, NotSupported
from plm_core.models import class_names, transform_for
from plm_core.prediction.classification import probabilities
from plm_core.prediction.labels import labels_of
from plm_core.prediction.tasks import Task, name_of, num_classes_of, task_of
from plm_core.training.checks import AT_LEAST_0, AT_LEAST_1, check_options
from plm_core.utils.devices import autocast
from plm_core.utils.progress import track

TOPS = (1, 5)
MAX_NAMES = 4
"""Number of classes that an error names."""


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a classifier on labelled images."""

    scores: Mapping[str, float]
    """``top-1 %``, and ``top-5 %`` for more than 5 classes: the share of the images in percent whose class is the most
    probable one, or among the five most probable ones, of all classes of the model."""
    images: int
    """Number of images."""
    num_classes: int
    """Number of classes of the model. The data may have some of them only."""
    data: str
    """The data in words."""


def labelled_images(source: str | Path, skip_unreadable: bool = False) -> Dataset:
    """Read the labelled images to judge a model by: the split for that, if the source has one, or all images.

    Args:
        source: As for `plm_core.datasets.load_splits`.
        skip_unreadable: Whether to leave out images that cannot be read, which are an error otherwise.

    Raises:
        InputError: The source cannot be read, holds videos, or has several labels for an image.
    """
    train, val = own_splits(source, skip_unreadable)
    data = train if val is None else val
    Pictures(data, lambda image: image)  # refuses videos and several labels
    return data


def evaluate(
    model: nn.Module, data: Dataset, *, batch_size: int = 64, num_workers: int = 0, dtype: str = "fp32"
) -> Evaluation:
    """Compute the top-1 and top-5 accuracy of an image classifier, on the preprocessing of `plm_core.transform_for`.

    Example:
        >>> import plm_core
        >>> from plm_core.prediction import evaluate, labelled_images
        >>> model = plm_core.create_model("hiera_micro_digits", pretrained=True).eval()
        >>> evaluate(model, labelled_images("digits/")).scores["top-1 %"] > 95
        True

    Args:
        model: The classifier in eval mode, on any device.
        data: The labelled images. Their classes are those of the model with the same names, whatever their number and
            order; see `match_classes`.
        batch_size: Images per forward pass.
        num_workers: Processes that read the images; with 0, this process reads them.
        dtype: Precision: fp32, or bf16 or fp16 by autocast.

    Raises:
        InputError: The model has no class of a name, an image cannot be read, or an argument is not allowed.
        NotSupported: The model does not classify images.
    """
    if (task := task_of(model)) != Task.IMAGES:
        raise NotSupported(f"model {name_of(model)!r} is for {task}; accuracies are computed for {Task.IMAGES}")
    if model.training:
        raise InputError(f"model {name_of(model)!r} is in training mode: call model.eval() first")
    options = {"batch_size": batch_size, "num_workers": num_workers}
    check_options(evaluate, options, batch_size=AT_LEAST_1, num_workers=AT_LEAST_0)
    numbers = torch.tensor(match_classes(model, data.classes))
    weight = next(model.parameters())
    loader = DataLoader(Pictures(data, transform_for(model)), batch_size, num_workers=num_workers)
    right, num_classes = dict.fromkeys(TOPS, 0), 0
    with torch.inference_mode(), autocast(weight.device, dtype):
        for x, y in track(loader, "evaluating", len(loader)):
            output = probabilities(model, x.to(weight))
            num_classes = output.shape[1]
            best = output.topk(min(max(TOPS), num_classes)).indices == numbers[y][:, None]
            for top in TOPS:
                right[top] += int(best[:, :top].any(1).sum())
    scores = {f"top-{top} %": 100 * count / len(data) for top, count in right.items() if top < num_classes}
    found = f"{len(data)} images of {len(data.classes)} classes of {data.source}"
    return Evaluation(scores, len(data), num_classes, found)


def match_classes(model: nn.Module, classes: Sequence[str]) -> list[int]:
    """Return the number that each class of the data has in a model, by its name.

    The names of the model's classes are those that ``plm predict`` gives. A model of timm for an ImageNet also knows
    them by the names of WordNet, such as n01440764. If the names as they are do not match, they are compared word by
    word: "tench" is "tench, Tinca tinca", case makes no difference, and "_" is a space.

    Raises:
        InputError: A class has no name of the model, or one that several of its classes have. The message names some.
    """
    count = num_classes_of(model) or 0
    label = labels_of(model, Task.IMAGES)
    spellings = [[label(number) for number in range(count)]]
    spellings += [names for names in class_names(model) if len(names) == count]
    exact = [_numbers([[name] for name in names]) for names in spellings]
    in_words = [_numbers([_words(name) for name in names]) for names in spellings]
    for table, keys in (
        *((table, classes) for table in exact),
        *((table, list(map(_word, classes))) for table in in_words),
    ):
        if all(table.get(key) is not None for key in keys):
            return [number for key in keys if (number := table[key]) is not None]
    absent = [name for name in classes if not any(table.get(_word(name)) is not None for table in in_words)]
    raise InputError(
        f"model {name_of(model)!r} has {count} classes ({_some(spellings[0])}); of the {len(classes)} of the data "
        f"{len(absent)} are not among them, or may be several: {_some(absent)}"
    )


def _numbers(names: Sequence[Sequence[str]]) -> dict[str, int | None]:
    """Return the number of the class for each of its names; None for a name that several classes have."""
    table: dict[str, int | None] = {}
    for number, of_class in enumerate(names):
        for name in dict.fromkeys(of_class):
            table[name] = None if name in table else number
    return table


def _words(name: str) -> list[str]:
    return [_word(part) for part in (name, *name.split(","))]


def _word(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:MAX_NAMES], *["..."] * (len(names) > MAX_NAMES)])
