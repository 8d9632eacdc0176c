"""The measurement of which of two ways to compute a layer is faster, once per process for each shape."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from plm_core.utils.devices import no_autocast

ROUNDS = 7
GAIN = 0.9
"""The share of the time for which a weight is packed, as a rule."""
MOST_ROWS = 1024
"""More rows are not measured: the shares of the time stay the same."""

_lock = Lock()
_faster: dict[tuple[object, ...], bool] = {}


class Example(NamedTuple):
    """An input that stands for many when ways are measured.

    Attributes:
        shape: Its shape.
        most: The packed way is taken if it takes at most this share of the time of the plain one.
    """

    shape: tuple[int, ...]
    most: float = GAIN


def bucket(rows: int, most: int = MOST_ROWS) -> int:
    """Return the power of two that stands for a number of rows, so that few shapes are measured."""
    return 1 << max(min(rows, most) - 1, 0).bit_length()


def is_faster(
    packed: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], example: Example, *key: object
) -> bool:
    """Return whether ``packed`` is faster than ``plain`` on an example of the inputs.

    Args:
        packed: A way to compute a layer.
        plain: Another way to the same.
        example: The input.
        *key: What else decides, such as the number of outputs. The answer of one measurement holds for all that are
            alike, and for the number of threads that torch has.
    """
    key = (example, torch.get_num_threads(), *key)
    with _lock:  # measurements at the same time would disturb one another
        if key not in _faster:
            with torch.inference_mode(), no_autocast("cpu"):  # in which neither way computes
                x = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))  # not the user's numbers
                _faster[key] = _share(packed, plain, x) <= example.most
        return _faster[key]


def _share(packed: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the share of the time of the plain way that the packed one takes.

    Times are paired, of which a busy neighbour on the machine disturbs some and not most.
    """
    ordered = _ordered(x)
    for way, own in ((packed, ordered), (plain, x)):
        way(own)  # the first call of a shape prepares kernels
    return statistics.median(_time(packed, ordered) / _time(plain, x) for _ in range(ROUNDS))


def _ordered(x: Tensor) -> Tensor:
    """Return an input as the packed way gets it from packed layers before it: images with their channels last."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _time(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = perf_counter()
    way(x)
    return perf_counter() - start
