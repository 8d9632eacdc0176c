"""What the metrics have in common: arguments as arrays, the highest cell of a heatmap, and distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plm_core import InputError


def numbers(name: str, value: Any, ndim: int) -> NDArray[np.float64]:
    """Return an argument as float64 with a number of dimensions.

    Raises:
        InputError: It has other dimensions, is empty, or has values that are no finite numbers.
    """
    try:
        array = np.asarray(_plain(value), dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise InputError(f"{name} is not an array of numbers") from e
    return _checked(name, array, ndim)


def maps(name: str, value: Any, ndim: int) -> NDArray[Any]:
    """Return heatmaps as float32, or as float64 if they are that.

    Raises:
        InputError: They have other dimensions, are empty, or have values that are not finite.
    """
    array = np.asarray(_plain(value))
    return _checked(name, array if array.dtype == np.float64 else array.astype(np.float32, copy=False), ndim)


def peaks(heatmaps: NDArray[Any]) -> NDArray[np.float64]:
    """Return the highest cell of each heatmap as fractions (x, y), [N, h, w] -> float64 [N, 2].

    It is the cell's upper left corner, as published, and the first in reading order of several.
    """
    rows, columns = heatmaps.shape[1:]
    y, x = np.divmod(heatmaps.reshape(len(heatmaps), -1).argmax(1), columns)
    return np.stack([x / columns, y / rows], 1)


def distances(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean distances of points [..., 2] from others."""
    return np.sqrt(((points - others) ** 2).sum(-1))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    return value


def _checked(name: str, array: NDArray[Any], ndim: int) -> NDArray[Any]:
    if array.ndim != ndim or 0 in array.shape:
        raise InputError(f"{name} has shape {list(array.shape)}; {ndim} dimensions that are not empty are expected")
    if not np.isfinite(array).all():
        raise InputError(f"{name} has values that are not finite")
    return array
