"""`predict`, which runs a model on files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plm_core.errors import InputError, NotSupported
from plm_core.models import transform_for
from plm_core.prediction.classification import classify
from plm_core.prediction.detection import detect
from plm_core.prediction.files import find_files, select_files
from plm_core.prediction.labels import labels_of
from plm_core.prediction.reading import ImageFiles, pixels_of
from plm_core.prediction.results import ImageClasses, ImageDetections, Result
from plm_core.prediction.tasks import KINDS, Task, name_of, task_of
from plm_core.utils.devices import autocast

OnError = Callable[[InputError], None]


def predict(
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    top: int = 5,
    threshold: float = 0.5,
    batch_size: int = 8,
    num_workers: int = 0,
    dtype: str = "fp32",
    on_error: OnError | None = None,
) -> Iterator[Result]:
    """Predict the classes of images, or the objects in them.

    The arguments are checked at once. The files are read as the results are taken, and come in their order.

    Args:
        model: The model in eval mode, on any device.
        paths: Image files, and folders of them with all folders below (see `find_files`). Images are turned as their
            EXIF data say.
        task: The task, for a model that was not created by name; see `task_of`.
        labels: Names of the classes. None for those that the model brings along.
        top: Number of classes of each image.
        threshold: Lowest score of an object, from 0 to 1. A detector has a limit of its own, below which it gives none.
        batch_size: Images per forward pass.
        num_workers: Processes that read the files; with 0, this process reads them.
        dtype: Precision: fp32, or bf16 or fp16 by autocast.
        on_error: Function that is called with the error of each file that cannot be read, which then has no result.
            None raises the error instead.

    Returns:
        `ImageClasses` or `ImageDetections`, one for each file.

    Raises:
        InputError: An argument is not allowed, a path does not exist, a folder has no images, or a file cannot be read.
        NotSupported: The model predicts nothing that is known here.
    """
    chosen = task_of(model, task)
    if model.training:
        raise InputError(f"model {name_of(model)!r} is in training mode: call model.eval() first")
    _check_numbers({"top": top, "batch_size": batch_size}, 1)
    _check_numbers({"num_workers": num_workers}, 0)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not allowed: 0 to 1 is")
    files = select_files(find_files(paths), KINDS[chosen], name_of(model))
    names = labels_of(model, chosen, labels)
    weight = next(model.parameters())
    context = autocast(weight.device, dtype)
    if chosen == Task.VIDEOS:
        raise NotSupported(f"model {name_of(model)!r} classifies clips of video, and only images are read here")

    def run(batch: list[tuple[Path, Tensor]]) -> list[Result]:
        sources, images = [file for file, _ in batch], [image for _, image in batch]
        with torch.inference_mode(), context:
            if chosen == Task.OBJECTS:
                found = detect(model, [image.to(weight) for image in images], names, threshold)
                sizes = [image.shape[-2:] for image in images]
                return [ImageDetections(f, w, h, d) for f, (h, w), d in zip(sources, sizes, found, strict=True)]
            classes = classify(model, torch.stack(images).to(weight), names, top)
            return [ImageClasses(file, best) for file, best in zip(sources, classes, strict=True)]

    preprocess = pixels_of if chosen == Task.OBJECTS else transform_for(model)
    data = ImageFiles([file.path for file in files], preprocess)
    loader = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=list)
    return (result for batch in loader if (good := _readable(batch, on_error)) for result in run(good))


def _readable(batch: list[tuple[Path, Tensor | InputError]], on_error: OnError | None) -> list[tuple[Path, Tensor]]:
    """Return the items that are no errors, and hand on or raise those that are."""
    for _, item in batch:
        if isinstance(item, InputError):
            if on_error is None:
                raise item
            on_error(item)
    return [(file, item) for file, item in batch if isinstance(item, Tensor)]


def _check_numbers(values: dict[str, int], least: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from {least} is")
