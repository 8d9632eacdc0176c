"""The names of a model's classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from plm_core.errors import InputError
from plm_core.prediction.tasks import Task, config_of, name_of, num_classes_of
from plm_core.sources import torchvision, transformers

Labels = Callable[[int], str]


def labels_of(model: nn.Module, task: Task, labels: Sequence[str] | None = None) -> Labels:
    """Return a function from the number of a class, from 0, to its name.

    The names are ``labels``, or those of the model's ``pretrained_cfg``, or those that torchvision or transformers have
    for it. An image classifier of timm without them that has as many classes as ImageNet-1k or one of the larger
    ImageNets has their names. Otherwise the name is the number.

    Raises:
        InputError: There are more or fewer names than classes.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = config_of(model)
    names = labels if labels is not None else config.get("label_names") or _of_library(model)
    if names is not None and len(names) > 0:
        return _own(model, names, None if labels is not None else config.get("label_descriptions"))
    subset = infer_imagenet_subset(model) if task == Task.IMAGES and config else None
    return ImageNetInfo(subset).index_to_description if subset else str


def _of_library(model: Any) -> Sequence[str] | Mapping[Any, str] | None:
    """Return the names that torchvision or transformers have for the classes of a model."""
    if hasattr(model, "plm_origin"):
        names, count = torchvision.categories(model), num_classes_of(model)
        return names if count in (len(names), None) else None  # the classifier may be another than that of the weights
    if transformers.is_of_transformers(model):
        return model.config.id2label
    return None


def _own(model: nn.Module, names: Sequence[str] | Mapping[Any, str], descriptions: Mapping[str, str] | None) -> Labels:
    from timm.data import CustomDatasetInfo

    count = num_classes_of(model)
    # timm also knows tables from number to name, which may leave classes without a name
    if not isinstance(names, Mapping) and count is not None and len(names) != count:
        raise InputError(
            f"model {name_of(model)!r} has {count} classes, but {len(names)} label names; give as many as classes "
            "(label_names of its config.json, or the argument labels)"
        )
    try:
        info = CustomDatasetInfo(names if isinstance(names, Mapping) else list(names), descriptions)
    except (TypeError, ValueError) as e:
        raise InputError(f"the label names of model {name_of(model)!r} cannot be used: {e}") from e
    return lambda number: info.index_to_description(number) if info.has_label(number) else str(number)
