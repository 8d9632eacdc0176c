"""The metrics of single persons, and those of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gazelle.metrics.points import distances, maps, numbers, peaks
from gazelle.metrics.ranks import auc
from plm_core import InputError

VAT_SIDE = 64
"""The side of the heatmaps that VAT's metrics are defined for."""
VAT_REACH = 9
"""Cells to each side of the gaze point that are positives of VAT's AUC."""

Scores = NDArray[np.float64]


def gazefollow(heatmap: Any, gazex: Any, gazey: Any, height: int, width: int) -> tuple[float, float, float]:
    """Return the metrics of GazeFollow for one person.

    Args:
        heatmap: The predicted heatmap [h, w] of any size.
        gazex: Horizontal positions by the annotators [A], fractions of the width; negative for none.
        gazey: Vertical positions [A].
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.

    Returns:
        auc: The area under the ROC curve over all pixels of the picture. Those that an annotator has chosen are the
            positives, and the heatmap is resized to the picture (bilinearly, without antialiasing). NaN without any.
        avg_l2: The distance of the heatmap's highest cell from the mean of the annotators' points.
        min_l2: The distance of that cell from the nearest of these points.

    Raises:
        InputError: An argument has the wrong shape or values that are not finite.
    """
    result = gazefollow_rows(maps("heatmap", heatmap, 2)[None], [gazex], [gazey], [height], [width])
    return float(result[0][0]), float(result[1][0]), float(result[2][0])


def gazefollow_rows(
    heatmaps: Any, gazex: Sequence[Any], gazey: Sequence[Any], heights: Sequence[int], widths: Sequence[int]
) -> tuple[Scores, Scores, Scores]:
    """Return the metrics of GazeFollow for many persons; see `gazefollow`.

    It takes the memory of one picture at a time, whatever the number of persons.

    Args:
        heatmaps: The predicted heatmaps [N, h, w].
        gazex: Horizontal positions by the annotators of each person, N times [A]; A may differ.
        gazey: Vertical positions.
        heights: Height of each person's picture in pixels [N].
        widths: Width of each person's picture in pixels [N].

    Returns:
        The AUC, average L2 and minimum L2 of each person, three times float64 [N].

    Raises:
        InputError: An argument has the wrong shape or values that are not finite.
    """
    predicted = maps("heatmaps", heatmaps, 3)
    _check_lengths(len(predicted), gazex=gazex, gazey=gazey, heights=heights, widths=widths)
    chosen, starts = _annotated(gazex, gazey)
    counts = np.diff(starts)
    sizes = np.stack([_sides("widths", widths), _sides("heights", heights)], 1)
    x, y = (chosen * sizes.repeat(counts, 0)).clip(0, sizes.repeat(counts, 0) - 1).astype(np.int64).T
    places = np.where(chosen[:, 0] >= 0, y * sizes[:, 0].repeat(counts) + x, -1).tolist()
    areas = [
        _area(heatmap, set(places[start:end]), height, width)
        for heatmap, start, end, (width, height) in zip(
            predicted, starts[:-1].tolist(), starts[1:].tolist(), sizes.tolist(), strict=True
        )
    ]
    points = peaks(predicted)
    means = np.add.reduceat(chosen, starts[:-1]) / counts[:, None]
    nearest = np.minimum.reduceat(distances(points.repeat(counts, 0), chosen), starts[:-1])
    return np.array(areas), distances(points, means), nearest


def vat(heatmap: Any, gazex: Any, gazey: Any) -> tuple[float, float]:
    """Return the metrics of VideoAttentionTarget for one person whose target is in the frame.

    Args:
        heatmap: The predicted heatmap [64, 64].
        gazex: Horizontal position, a fraction of the width.
        gazey: Vertical position.

    Returns:
        auc: The area under the ROC curve over the cells of the heatmap. Positives are the cells within 9 of the target,
            except for those of the last row and the last column, which the benchmark leaves out. NaN without any.
        l2: The distance of the heatmap's highest cell from the target.

    Raises:
        InputError: The heatmap has another size, or an argument is not finite.
    """
    x, y = (np.ravel(numbers(name, v, np.ndim(v))) for name, v in {"gazex": gazex, "gazey": gazey}.items())
    result = vat_rows(maps("heatmap", heatmap, 2)[None], x, y)
    return float(result[0][0]), float(result[1][0])


def vat_rows(heatmaps: Any, gazex: Any, gazey: Any) -> tuple[Scores, Scores]:
    """Return the metrics of VideoAttentionTarget for many persons whose targets are in the frame; see `vat`.

    Args:
        heatmaps: The predicted heatmaps [N, 64, 64].
        gazex: Horizontal positions [N], fractions of the width.
        gazey: Vertical positions [N].

    Returns:
        The AUC and the L2 of each person, twice float64 [N].

    Raises:
        InputError: The heatmaps have another size, or arguments do not match or are not finite.
    """
    predicted, x, y = maps("heatmaps", heatmaps, 3), numbers("gazex", gazex, 1), numbers("gazey", gazey, 1)
    _check_lengths(len(predicted), gazex=x, gazey=y)
    if predicted.shape[1:] != (VAT_SIDE, VAT_SIDE):
        size = " x ".join(map(str, predicted.shape[1:]))
        raise InputError(f"heatmaps are {size}; VAT's metrics are defined for {VAT_SIDE} x {VAT_SIDE} only")
    targets = np.stack([x, y], 1)
    low = np.trunc(targets * VAT_SIDE - VAT_REACH).clip(0, VAT_SIDE).astype(np.int64)
    high = np.trunc(targets * VAT_SIDE + VAT_REACH + 1).clip(0, VAT_SIDE - 1).astype(np.int64)
    cells = np.arange(VAT_SIDE**2).reshape(VAT_SIDE, VAT_SIDE)
    areas = [
        auc(scores, cells[y0:y1, x0:x1].ravel())
        for scores, (x0, y0), (x1, y1) in zip(predicted.reshape(len(predicted), -1), low, high, strict=True)
    ]
    return np.array(areas), distances(peaks(predicted), targets)


def _area(heatmap: NDArray[Any], chosen: set[int], height: int, width: int) -> float:
    """Return GazeFollow's AUC of a heatmap.

    Args:
        heatmap: The predicted heatmap [h, w].
        chosen: The pixels that annotators have chosen, numbered row by row; -1 for none.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
    """
    if heatmap.shape != (height, width):
        tensor = torch.from_numpy(np.ascontiguousarray(heatmap))[None, None]
        heatmap = F.interpolate(tensor, size=(height, width), mode="bilinear").numpy()
    return auc(heatmap.ravel(), np.array(sorted(chosen - {-1}), dtype=np.int64))


def _annotated(gazex: Sequence[Any], gazey: Sequence[Any]) -> tuple[Scores, NDArray[np.int64]]:
    """Return the points of all annotators, float64 [M, 2], and where those of each person begin, int64 [N + 1]."""
    across, down = [np.ravel(x) for x in gazex], [np.ravel(y) for y in gazey]
    for number, counts in enumerate(zip(map(len, across), map(len, down), strict=True)):
        if not counts[0] or counts[0] != counts[1]:
            given = "gazex and gazey of person {} have {} and {} annotators".format(number, *counts)
            raise InputError(f"{given}; the same number is expected, 1 or more")
    points = np.stack([numbers("gazex", np.concatenate(across), 1), numbers("gazey", np.concatenate(down), 1)], 1)
    return points, np.cumsum([0, *map(len, across)])


def _sides(name: str, values: Sequence[int]) -> NDArray[np.int64]:
    """Return heights or widths of pictures, int64 [N]."""
    sides = numbers(name, values, 1)
    if (sides < 1).any() or (sides % 1).any():
        raise InputError(f"{name} are not all whole numbers of pixels, 1 or more")
    return sides.astype(np.int64)


def _check_lengths(count: int, **rows: Any) -> None:
    for name, values in rows.items():
        if len(values) != count:
            raise InputError(f"{name} has {len(values)} entries; {count} are expected")
