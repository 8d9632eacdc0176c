"""The accuracy of a classifier on labelled images or videos, whose classes are matched with the model's by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from plm_core.datasets import Dataset, Pictures
from plm_core.datasets.splits import own_splits
from plm_core.errors import InputError, NotSupported
from plm_core.models import class_names, transform_for
from plm_core.prediction.classification import probabilities
from plm_core.prediction.clips import clip_input
from plm_core.prediction.labels import labels_of
from plm_core.prediction.tasks import Task, name_of, num_classes_of, task_of
from plm_core.training.checks import AT_LEAST_0, AT_LEAST_1, check_options
from plm_core.utils.devices import autocast
from plm_core.utils.progress import track
from plm_core.video import ClipSettings, open_clips, per_clip

TOPS = (1, 5)
KINDS = {Task.IMAGES: "images", Task.VIDEOS: "videos"}
"""The tasks whose accuracy is computed, with the kind of their data."""
MAX_NAMES = 4
"""Number of classes that an error names."""


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a classifier on labelled images or videos."""

    scores: Mapping[str, float]
    """``top-1 %``, and ``top-5 %`` for more than 5 classes: the share of the images or videos in percent whose class is
    the most probable one, or among the five most probable ones, of all classes of the model."""
    images: int
    """Number of images or videos."""
    num_classes: int
    """Number of classes of the model. The data may have some of them only."""
    data: str
    """The data in words."""


def labelled_data(source: str | Path, skip_unreadable: bool = False) -> Dataset:
    """Read the labelled images or videos to judge a model by: the split for that, if the source has one, or all.

    Args:
        source: As for `plm_core.datasets.load_splits`.
        skip_unreadable: Whether to leave out images or videos that cannot be read, which are an error otherwise.

    Raises:
        InputError: The source cannot be read, or has several labels for an image.
    """
    train, val = own_splits(source, skip_unreadable)
    data = train if val is None else val
    if data.labels.ndim != 1:
        raise InputError(f"data {data.source!r} has several labels per image; one class per image is needed")
    return data


def evaluate(
    model: nn.Module,
    data: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    dtype: str = "fp32",
    stride: int | None = None,
) -> Evaluation:
    """Compute the top-1 and top-5 accuracy of a classifier, with the preprocessing of `plm_core.transform_for`.

    A video model is given the clip from the middle of each video, as after a training. The last frame of a video that
    is too short is repeated.

    Example:
        >>> import plm_core
        >>> from plm_core.prediction import evaluate, labelled_data
        >>> model = plm_core.create_model("hiera_micro_digits", pretrained=True).eval()
        >>> evaluate(model, labelled_data("digits/")).scores["top-1 %"] > 95
        True

    Args:
        model: The classifier in eval mode, on any device.
        data: The labelled images, or videos for a video model. Their classes are those of the model with the same
            names, whatever their number and order; see `match_classes`.
        batch_size: Images or clips per forward pass.
        num_workers: Processes that read the data; with 0, this process reads them.
        dtype: Precision: fp32, or bf16 or fp16 by autocast.
        stride: Step from one frame of a clip to the next: 4 takes every fourth. None for the model's own.

    Raises:
        InputError: The data are of the other kind, the model has no class of a name, an image or a video cannot be
            read, or an argument is not allowed.
        NotSupported: The model classifies neither images nor clips whose number of frames is known.
        MissingDependency: PyAV is needed for videos and is not installed.
    """
    task = task_of(model)
    if model.training:
        raise InputError(f"model {name_of(model)!r} is in training mode: call model.eval() first")
    options = {"batch_size": batch_size, "num_workers": num_workers, "stride": stride}
    check_options(evaluate, options, batch_size=AT_LEAST_1, num_workers=AT_LEAST_0, stride=AT_LEAST_1)
    items = _items(model, task, data, stride)
    numbers = torch.tensor(match_classes(model, data.classes))
    weight = next(model.parameters())
    loader: DataLoader[Any] = DataLoader(items, batch_size, num_workers=num_workers)
    right, num_classes = dict.fromkeys(TOPS, 0), 0
    with torch.inference_mode(), autocast(weight.device, dtype):
        for x, y in track(loader, "evaluating", len(loader)):
            output = probabilities(model, x.to(weight))
            num_classes = output.shape[1]
            best = output.topk(min(max(TOPS), num_classes)).indices == numbers[y][:, None]
            for top in TOPS:
                right[top] += int(best[:, :top].any(1).sum())
    scores = {f"top-{top} %": 100 * count / len(data) for top, count in right.items() if top < num_classes}
    found = f"{len(data)} {data.kind} of {len(data.classes)} classes of {data.source}"
    return Evaluation(scores, len(data), num_classes, found)


def _items(model: nn.Module, task: Task, data: Dataset, stride: int | None) -> torch.utils.data.Dataset[Any]:
    """Return the data as a dataset of (what the model takes, class number)."""
    if task not in KINDS:
        raise NotSupported(f"model {name_of(model)!r} is for {task}; accuracies are computed for {' and '.join(KINDS)}")
    if data.kind != KINDS[task]:
        raise InputError(f"model {name_of(model)!r} is for {task}, but data {data.source!r} holds {data.kind}")
    if task == Task.IMAGES:
        if stride is not None:
            raise InputError(f"stride is for {Task.VIDEOS}; model {name_of(model)!r} is for {task}")
        return Pictures(data, transform_for(model))
    preprocess = per_clip(transform_for(model))
    return open_clips(data, clip_input(model, stride), ClipSettings(), preprocess, training=False)


def match_classes(model: nn.Module, classes: Sequence[str]) -> list[int]:
    """Return the number that each class of the data has in a model, by its name.

    The names of the model's classes are those that ``plm predict`` gives. A model of timm for an ImageNet also knows
    them by the names of WordNet, such as n01440764. If the names as they are do not match, they are compared word by
    word: "tench" is "tench, Tinca tinca", case makes no difference, and "_" is a space.

    Raises:
        InputError: A class has no name of the model, or one that several of its classes have. The message names some.
    """
    count = num_classes_of(model) or 0
    label = labels_of(model, task_of(model))
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
