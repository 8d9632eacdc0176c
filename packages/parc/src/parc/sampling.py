"""The probe: which few images of a dataset the models are judged on (paper 3.3; the sampler as published)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError

SEED, SEED_STEP = 2020, 3037
MIN_PER_CLASS = 2  # a class with one image in the probe has no same-class pair


def sample_probe(labels: Any, budget: int = 500, run: int = 0, num_classes: int | None = None) -> NDArray[np.int64]:
    """Choose the images of a probe as the benchmark does: class by class in turns, deterministic by run.

    Class labels: each class's images are shuffled, then every class gives one image per round until the budget is
    spent or the images are. So the first half of a probe is as balanced as the whole. When there are too many classes
    for two images each, ``budget // 2`` of them are drawn. Other labels: a plain random sample. Python's and numpy's
    global random states are neither read nor changed.

    Args:
        labels: Integers [N], any values (classes); or [N, C] or floats [N] (multi-hot and regression).
        budget: Number of images, at least 2; fewer come back when there are fewer.
        run: Number of the probe; the benchmark uses 0..4.
        num_classes: Nominal class count, which decides whether classes are drawn; default, the classes that occur.

    Returns:
        Indices into ``labels``, int64 [min(budget, N)] (fewer when classes were drawn), in the published order.

    Raises:
        InputError: No labels, too many dimensions, NaN, a budget below 2 or a negative run.
    """
    values = _checked(labels, budget, run, num_classes)
    rng = random.Random(SEED + SEED_STEP * run)
    if values.ndim == 2 or values.dtype.kind == "f":
        order = list(range(len(values)))
        rng.shuffle(order)
        return np.array(order[:budget], np.int64)

    images: dict[int, list[int]] = {}  # in order of first appearance, since that is the order of the shuffles
    for index, label in enumerate(values.tolist()):
        images.setdefault(label, []).append(index)
    for of_class in images.values():
        rng.shuffle(of_class)
    classes = sorted(images)
    if (num_classes or len(classes)) * MIN_PER_CLASS > budget:
        rng.shuffle(classes)
        classes = classes[: budget // MIN_PER_CLASS]
    return np.array(_in_turns([images[label] for label in classes], budget), np.int64)


def _in_turns(images: list[list[int]], budget: int) -> list[int]:
    """One from the end of every list per round, until ``budget`` are taken or all lists are empty."""
    rounds = max(map(len, images))
    turns = (of_class[-1 - turn] for turn in range(rounds) for of_class in images if turn < len(of_class))
    return [index for index, _ in zip(turns, range(budget), strict=False)]


def _checked(labels: Any, budget: int, run: int, num_classes: int | None) -> NDArray[Any]:
    values = np.asarray(labels)
    if values.ndim not in (1, 2) or values.size == 0:
        raise InputError(f"labels has shape {values.shape}; [N] or [N, C] with at least one image is needed")
    if values.dtype.kind not in "biuf":
        raise InputError(f"labels has type {values.dtype}; integers, zeros and ones, or floats are allowed")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"labels has {np.count_nonzero(~np.isfinite(values))} NaN or infinite values")
    if budget < MIN_PER_CLASS:
        raise InputError(f"budget is {budget}; at least {MIN_PER_CLASS} images are needed")
    if run < 0:
        raise InputError(f"run is {run}; 0 or more is allowed")
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes is {num_classes}; 1 or more is allowed")
    return values
