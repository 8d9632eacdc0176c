"""What a model predicts, and trained models by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from plm_core.errors import InputError, NotSupported, WeightsError
from plm_core.hookspecs import Model
from plm_core.models import create_model, input_of
from plm_core.packing import check_fast, make_fast
from plm_core.prediction.files import Kind
from plm_core.registry import registry
from plm_core.sources import torchvision, transformers
from plm_core.transforms import apply_all
from plm_core.utils.text import shown

_log = logging.getLogger(__name__)


class Task(StrEnum):
    """A task whose predictions can be made for files."""

    IMAGES = "image-classification"
    VIDEOS = "video-classification"
    OBJECTS = "object-detection"


KINDS = {Task.IMAGES: Kind.IMAGE, Task.VIDEOS: Kind.VIDEO, Task.OBJECTS: Kind.IMAGE}
"""The kind of the files that each task takes."""
HEADLESS = "plm_core.embed gives its embeddings, and plm train finetune trains it on classes of your own"


def name_of(model: Any) -> str:
    """Return the name of a model's architecture, or its class if it was not created by name."""
    if hasattr(model, "plm_origin"):
        return f"torchvision:{model.plm_origin.name}"
    if transformers.is_of_transformers(model):
        return f"transformers:{model.name_or_path or type(model).__name__}"
    return str(config_of(model).get("architecture") or type(model).__name__)


def config_of(model: nn.Module) -> Mapping[str, Any]:
    """Return timm's configuration of a model's weights; empty if it has none."""
    return getattr(model, "pretrained_cfg", None) or {}


def task_of(model: nn.Module, task: str | None = None) -> Task:
    """Return what a model predicts.

    Args:
        model: The model.
        task: The task, if the model was not created by name. None for that of the model's declaration, or the one
            that torchvision or transformers have for it; timm's own models classify images.

    Raises:
        InputError: There is no such task.
        NotSupported: The model has no classes, or its task is another one.
    """
    if task is not None and task not in list(Task):
        raise InputError(f"task {task!r} is not allowed: {', '.join(Task)} are")
    if num_classes_of(model) == 0:
        raise NotSupported(f"model {name_of(model)!r} has no classes: {HEADLESS}")
    task = task or _known_task(model)
    if task not in list(Task):
        raise NotSupported(f"model {name_of(model)!r} is for {task}; predictions are made for {', '.join(Task)}")
    return Task(task)


def modality_of(model: Any) -> str:
    """Return what a model takes: ``image``, ``video`` or ``audio``.

    Raises:
        InputError: The model has no ``pretrained_cfg``, and is not of torchvision or transformers.
    """
    if transformers.is_of_transformers(model):
        # transformers says of TimeSformer that it takes images
        return "video" if transformers.task(model) == Task.VIDEOS else transformers.modality(model)
    if hasattr(model, "plm_origin"):
        return "video" if torchvision.task(model) == Task.VIDEOS else "image"
    return "image" if input_of(model).frames is None else "video"


def num_classes_of(model: Any) -> int | None:
    """Return the number of classes of a model, 0 if it has no classifier, and None if that is not known."""
    if hasattr(model, "plm_origin"):
        return torchvision.num_classes(model)
    if transformers.is_of_transformers(model):
        return int(model.config.num_labels) if transformers.task(model) else 0
    return getattr(model, "num_classes", None)


def _known_task(model: nn.Module) -> str:
    if hasattr(model, "plm_origin"):
        return torchvision.task(model)
    if transformers.is_of_transformers(model):
        return transformers.task(model) or "no task"
    entry = registry().all(Model).get(name_of(model))
    return entry.declaration.task if entry else Task.IMAGES


def trained_model(
    name: str, transforms: Iterable[str] = (), device: torch.device | str = "cpu", *, fast: bool = False
) -> nn.Module:
    """Create a model with its weights in eval mode, ready to predict.

    Args:
        name: As for `plm_core.create_model`.
        transforms: Transforms to apply, as `plm_core.transforms.parse` reads them.
        device: Device of the model.
        fast: Whether to apply the transform ``packed`` too, on the CPU. A warning says so if it changes nothing.

    Raises:
        NotSupported: The model predicts nothing, or its weights have no trained classes.
        WeightsError: The weights are not finite.
        InputError: ``fast`` is for the CPU, and the device is another one.
        PlmError: The model or a transform cannot be had; see `plm_core.create_model` and `plm_core.apply`.
    """
    if fast:
        check_fast(device)
    model = create_model(name, pretrained=True).eval()
    task_of(model)
    if config_of(model).get("num_classes") == 0:  # the model has classes, but only newly initialised ones
        raise NotSupported(f"the weights of model {name!r} have no trained classes: {HEADLESS}")
    return prepare(model, name, transforms, device, fast=fast)


def prepare(
    model: nn.Module, name: str, transforms: Iterable[str] = (), device: torch.device | str = "cpu", *, fast: bool
) -> nn.Module:
    """Check the weights of a model, apply transforms to it and move it to a device.

    Args:
        model: The model, which is changed in place.
        name: Its name, for messages.
        transforms: See `trained_model`.
        device: Device of the model.
        fast: See `trained_model`.

    Raises:
        WeightsError, PlmError: See `trained_model`.
    """
    _check_finite(name, model)
    model = apply_all(model, transforms).to(device)
    if fast and (why := make_fast(model)):
        _log.warning(why)
    return model


def _check_finite(name: str, model: nn.Module) -> None:
    """Refuse weights with NaN or infinite values, such as a training that diverged leaves. They predict nothing."""
    wrong = [key for key, weight in model.named_parameters() if not weight.isfinite().all()]
    if wrong:
        raise WeightsError(f"weights of model {name!r} are not finite: {shown(wrong[0])} and {len(wrong) - 1} others")
