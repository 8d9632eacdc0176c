"""`predict`, which runs a model on files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plm_core.errors import InputError
from plm_core.models import transform_for
from plm_core.prediction.classification import classify
from plm_core.prediction.clips import ClipClassifier, clip_input
from plm_core.prediction.detection import detect
from plm_core.prediction.files import find_files, select_files
from plm_core.prediction.labels import Labels, labels_of
from plm_core.prediction.reading import ImageFiles
from plm_core.prediction.results import ImageClasses, ImageDetections, Result
from plm_core.prediction.tasks import KINDS, Task, name_of, task_of
from plm_core.utils.devices import autocast
from plm_core.utils.images import pixels_of

OnError = Callable[[InputError], None]
Advance = Callable[[float], None]
Batch = list[tuple[Path, Tensor]]

TOP = 5
THRESHOLD = 0.5
USES = {"top": (Task.IMAGES, Task.VIDEOS), "threshold": (Task.OBJECTS,), "stride": (Task.VIDEOS,)}
"""The tasks for which an option has a meaning."""


def predict(
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    top: int | None = None,
    threshold: float | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    dtype: str = "fp32",
    stride: int | None = None,
    on_error: OnError | None = None,
    advance: Advance = lambda files: None,
) -> Iterator[Result]:
    """Predict the classes of images or videos, or the objects in images.

    The arguments are checked at once. The files are read as the results are taken, and come in their order.

    Args:
        model: The model in eval mode, on any device.
        paths: Files, and folders of them with all folders below (see `find_files`): images, which are turned as their
            EXIF data say, or videos for a video model.
        task: The task, for a model that was not created by name; see `task_of`.
        labels: Names of the classes. None for those that the model brings along.
        top: Number of classes of each image, or each window of a video. None for 5.
        threshold: Lowest score of an object, from 0 to 1. None for 0.5. A detector has a limit of its own, below which
            it gives none.
        batch_size: Images or windows per forward pass. Images of different sizes never share a pass of a detector.
        num_workers: Processes that read images; with 0, this process reads them. Videos are decoded in threads of it.
        dtype: Precision: fp32, or bf16 or fp16 by autocast.
        stride: Step from one frame of a clip to the next: 4 takes every fourth of a video. None for the model's own.
        on_error: Function that is called with the error of each file that cannot be read, which then has no result.
            None raises the error instead.
        advance: Function that is called with the number of files, or the share of a video, that is done since its last
            call, for a progress bar.

    Returns:
        `ImageClasses`, `ImageDetections` or `VideoClasses`, one for each file.

    Raises:
        InputError: An argument is not allowed or has no meaning for the task, a path does not exist, a folder has none
            of these files, or a file cannot be read.
        NotSupported: The model predicts nothing that is known here.
        MissingDependency: PyAV is needed for videos and is not installed.
    """
    chosen = task_of(model, task)
    if model.training:
        raise InputError(f"model {name_of(model)!r} is in training mode: call model.eval() first")
    _check_use(model, chosen, {"top": top, "threshold": threshold, "stride": stride})
    top, threshold = TOP if top is None else top, THRESHOLD if threshold is None else threshold
    _check_numbers({"top": top, "batch_size": batch_size, "stride": 1 if stride is None else stride}, 1)
    _check_numbers({"num_workers": num_workers}, 0)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not allowed: 0 to 1 is")
    files = [file.path for file in select_files(find_files(paths), KINDS[chosen], name_of(model))]
    names = labels_of(model, chosen, labels)
    context = autocast(next(model.parameters()).device, dtype)
    if chosen == Task.VIDEOS:
        clips = ClipClassifier(model, clip_input(model, stride), names, top, batch_size, context)
        return _videos(clips, files, on_error, advance)
    run: Callable[[Batch], list[Result]] = partial(_classify, model, labels=names, top=top)
    if chosen == Task.OBJECTS:
        run = partial(_detect, model, labels=names, threshold=threshold)
    data = ImageFiles(files, pixels_of if chosen == Task.OBJECTS else transform_for(model))
    loader = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=list)
    return _images(run, loader, context, on_error, advance)


def _images(
    run: Callable[[Batch], list[Result]],
    loader: DataLoader[Any],
    context: AbstractContextManager[Any],
    on_error: OnError | None,
    advance: Advance,
) -> Iterator[Result]:
    for batch in loader:
        readable = _readable(batch, on_error)
        results: list[Result] = []
        if readable:
            with torch.inference_mode(), context:
                results = run(readable)
        yield from results
        advance(len(batch))


def _videos(
    clips: ClipClassifier, files: Sequence[Path], on_error: OnError | None, advance: Advance
) -> Iterator[Result]:
    for file in files:
        try:
            result = clips.classify(file, advance)
        except InputError as e:
            if on_error is None:
                raise
            on_error(e)
        else:
            yield result


def _classify(model: nn.Module, batch: Batch, labels: Labels, top: int) -> list[Result]:
    x = torch.stack([image for _, image in batch])
    classes = classify(model, x.to(next(model.parameters())), labels, top)
    return [ImageClasses(file, best) for (file, _), best in zip(batch, classes, strict=True)]


def _detect(model: nn.Module, batch: Batch, labels: Labels, threshold: float) -> list[Result]:
    weight = next(model.parameters())
    objects = detect(model, [image.to(weight) for _, image in batch], labels, threshold)
    return [
        ImageDetections(file, image.shape[2], image.shape[1], detections)
        for (file, image), detections in zip(batch, objects, strict=True)
    ]


def _readable(batch: list[tuple[Path, Tensor | InputError]], on_error: OnError | None) -> Batch:
    """Return the items that are no errors, and hand on or raise those that are."""
    for _, item in batch:
        if isinstance(item, InputError):
            if on_error is None:
                raise item
            on_error(item)
    return [(file, item) for file, item in batch if isinstance(item, Tensor)]


def _check_use(model: nn.Module, task: Task, given: Mapping[str, float | None]) -> None:
    for name, value in given.items():
        if value is not None and task not in USES[name]:
            raise InputError(f"{name} is for {' and '.join(USES[name])}; model {name_of(model)!r} is for {task}")


def _check_numbers(values: dict[str, int], least: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from {least} is")
