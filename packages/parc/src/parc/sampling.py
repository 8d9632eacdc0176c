"""The images of a dataset on which models are scored, chosen as in the benchmark (section 3.3 of the paper)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc.checks import whole_number
from plm_core.errors import InputError

# Seed of the first run and its increment per run, as published
SEED, SEED_STEP = 2020, 3037
MIN_PER_CLASS = 2  # a class with one image in the probe has no pair within the class


def sample_probe(labels: Any, budget: int = 500, run: int = 0, num_classes: int | None = None) -> NDArray[np.int64]:
    """Choose the images of a probe as the published benchmark does: class by class in turns, deterministic by run.

    The images of each class are shuffled. Then every class gives one image per round, until the budget or the images
    are used up. The first half of a probe is therefore as balanced as the whole. If there are too many classes for two
    images each, ``budget // 2`` of them are drawn. If the labels are not classes, the probe is a plain random sample.
    The global random states of Python and NumPy are neither read nor changed.

    Example:
        >>> import parc
        >>> parc.sample_probe([0, 0, 0, 0, 1, 1], budget=4, run=0).tolist()
        [1, 5, 2, 4]

    Args:
        labels: Integers [N] or [N, 1] of any value (classes), [N, C] (multi-hot), or floats [N] (regression).
        budget: Number of images, at least 2. The probe is smaller if the dataset is.
        run: Number of the probe. The published benchmark uses 0 to 4.
        num_classes: Nominal number of classes, which decides whether classes are drawn; None for the number of classes
            that occur.

    Returns:
        Indices into ``labels``, int64 [min(budget, N)] (fewer if classes were drawn), in the published order.

    Raises:
        InputError: There are no labels, the labels have too many dimensions or NaN, the budget is below 2, or the run
            is negative.
    """
    values = _checked(labels, budget, run, num_classes)
    rng = random.Random(SEED + SEED_STEP * run)
    if values.ndim == 2 or values.dtype.kind == "f":
        order = list(range(len(values)))
        rng.shuffle(order)
        return np.array(order[:budget], np.int64)

    images: dict[int, list[int]] = {}  # in order of first appearance, which is the published order of the shuffles
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
    """Take one image from the end of every list per round, until the budget or the lists are used up."""
    rounds = max(map(len, images))
    turns = (of_class[-1 - turn] for turn in range(rounds) for of_class in images if turn < len(of_class))
    return [index for index, _ in zip(turns, range(budget), strict=False)]


def _checked(labels: Any, budget: int, run: int, num_classes: int | None) -> NDArray[Any]:
    try:
        values = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as e:  # ragged sequences, and what NumPy cannot convert
        raise InputError(f"labels is not an array: {e}") from None
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or values.size == 0:
        raise InputError(f"labels has shape {values.shape}; [N] or [N, C] with at least one image is needed")
    if values.dtype.kind not in "biuf":
        raise InputError(f"labels has type {values.dtype}; integers, zeros and ones, or floats are allowed")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"labels has {np.count_nonzero(~np.isfinite(values))} NaN or infinite values")
    whole_number(budget, "budget", MIN_PER_CLASS)
    whole_number(run, "run")
    if num_classes is not None:
        whole_number(num_classes, "num_classes", 1)
    return values
