"""The measurement of which of two ways to compute a layer is faster, once per process for each shape."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from threading import Lock
from time import perf_counter

import torch
from torch import Tensor

from plm_core.utils.devices import no_autocast

ROUNDS = 7
GAIN = 0.9
"""The packed way is taken if it takes at most this share of the time of the plain one."""
MOST_ROWS = 1024
"""More rows are not measured: the shares of the time stay the same."""

_lock = Lock()
_faster: dict[tuple[object, ...], bool] = {}


def bucket(rows: int) -> int:
    """Return the power of two that stands for a number of rows, so that few shapes are measured."""
    return 1 << max(min(rows, MOST_ROWS) - 1, 0).bit_length()


def is_faster(
    packed: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], rows: int, width: int, *key: object
) -> bool:
    """Return whether ``packed`` is faster than ``plain`` on inputs of a bucket of rows.

    Args:
        packed: [rows, width] -> anything.
        plain: Another way to the same.
        rows: A value of `bucket`.
        width: The number of channels of the inputs.
        *key: What else decides, such as the number of outputs. The answer of one measurement holds for all that are
            alike, and for the number of threads that torch has.
    """
    key = (rows, width, torch.get_num_threads(), *key)
    with _lock:  # measurements at the same time would disturb one another
        if key not in _faster:
            with torch.inference_mode(), no_autocast("cpu"):  # in which neither way computes
                x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))  # not the user's numbers
                _faster[key] = _measure(packed, plain, x)
        return _faster[key]


def _measure(packed: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Compare paired times, of which a busy neighbour on the machine disturbs some and not most."""
    for way in (packed, plain):
        way(x)  # the first call of a shape prepares kernels
    return statistics.median(_time(packed, x) / _time(plain, x) for _ in range(ROUNDS)) <= GAIN


def _time(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = perf_counter()
    way(x)
    return perf_counter() - start
