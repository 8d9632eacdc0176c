"""Predictions as rows with equal keys, for tables, and as the data of a JSON file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from plm_core.prediction.results import Detection, ImageClasses, ImageDetections, Result
from plm_core.prediction.tasks import Task

Row = dict[str, Any]

COLUMNS = {
    Task.IMAGES: ("image", "class", "label", "probability"),
    Task.OBJECTS: ("image", "class", "label", "score", "x0", "y0", "x1", "y1"),
}
"""The keys of a row of each task."""


def rows_of(results: Iterable[Result]) -> list[Row]:
    """Return a row for each class of an image, and for each object in an image.

    The edges of a box are in pixels: x0 left, y0 top, x1 right, y1 bottom. Masks have no place in a table.
    """
    return [row for result in results for row in _rows(result)]


def json_of(results: Iterable[Result]) -> list[Row]:
    """Return the data of a JSON file.

    They are the rows of the classes of images. A detector's images each have an entry of their own, also without any
    object: ``image``, ``width``, ``height`` and ``detections``. A detection has ``class``, ``label``, ``score``,
    ``box`` (x0, y0, x1, y1 in pixels) and ``mask``, which is in COCO's run lengths (or null).
    """
    data: list[Row] = []
    for result in results:
        data += [_entry(result)] if isinstance(result, ImageDetections) else _rows(result)
    return data


def _rows(result: Result) -> list[Row]:
    image = str(result.path)
    if isinstance(result, ImageClasses):
        return [
            {"image": image, "class": c.number, "label": c.label, "probability": round(c.probability, 4)}
            for c in result.classes
        ]
    return [
        {"image": image, **_object(d), **dict(zip(("x0", "y0", "x1", "y1"), _box(d), strict=True))}
        for d in result.detections
    ]


def _object(detection: Detection) -> Row:
    return {"class": detection.number, "label": detection.label, "score": round(detection.score, 4)}


def _box(detection: Detection) -> list[float]:
    return [round(edge, 1) for edge in detection.box]


def _entry(result: ImageDetections) -> Row:
    detections = [{**_object(d), "box": _box(d), "mask": d.mask and asdict(d.mask)} for d in result.detections]
    return {"image": str(result.path), "width": result.width, "height": result.height, "detections": detections}
