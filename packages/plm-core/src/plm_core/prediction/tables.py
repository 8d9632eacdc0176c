"""Predictions as rows with equal keys, for a terminal or a .csv file, and as the data of a .json file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from plm_core.prediction.results import ClassScore, Detection, ImageClasses, ImageDetections, Result, VideoClasses
from plm_core.prediction.tasks import Task

Row = dict[str, Any]

EDGES = ("x0", "y0", "x1", "y1")
COLUMNS = {
    Task.IMAGES: ("image", "class", "label", "probability"),
    Task.OBJECTS: ("image", "class", "label", "score", *EDGES),
    Task.VIDEOS: ("video", "window", "start", "end", "class", "label", "probability"),
}
"""The columns of the .csv file of each task."""
WHOLE = "all"
"""In the column ``window``, the mean over all windows of a video."""


def csv_rows(results: Iterable[Result]) -> list[Row]:
    """Return a row for each class of an image, each object in an image, and each class of each window of a video.

    The edges of a box are in pixels: x0 left, y0 top, x1 right, y1 bottom. Masks have no place in a table. Windows are
    counted from 1, and their times are in seconds. The last rows of a video, of window "all", are its mean.
    """
    return [row for result in results for row in _csv_rows(result)]


def short_rows(results: Iterable[Result]) -> list[Row]:
    """Return the rows for a terminal: those of a .csv file, but a single one for each window of a video."""
    rows: list[Row] = []
    for result in results:
        rows += _short_windows(result) if isinstance(result, VideoClasses) else _csv_rows(result)
    return rows


def json_of(results: Iterable[Result]) -> list[Row]:
    """Return the data of a .json file.

    They are the rows of the classes of images. A detector's images each have an entry of their own, also without any
    object: ``image``, ``width``, ``height`` and ``detections``. A detection has ``class``, ``label``, ``score``,
    ``box`` (x0, y0, x1, y1 in pixels) and ``mask``, which is in COCO's run lengths (or null). A video's entry has
    ``video``, ``windows``, each with ``start``, ``end`` and ``classes``, and ``classes``, the mean over the windows.
    """
    data: list[Row] = []
    for result in results:
        data += _csv_rows(result) if isinstance(result, ImageClasses) else [_entry(result)]
    return data


def _csv_rows(result: Result) -> list[Row]:
    if isinstance(result, ImageClasses):
        return [{"image": str(result.path), **_class(c)} for c in result.classes]
    if isinstance(result, VideoClasses):
        return [{**row, **_class(c)} for row, classes in _windows(result) for c in classes]
    return [
        {"image": str(result.path), **_object(d), **dict(zip(EDGES, _box(d), strict=True))} for d in result.detections
    ]


def _windows(result: VideoClasses) -> list[tuple[Row, tuple[ClassScore, ...]]]:
    """Return the windows of a video, and the whole video as the last one, each with its classes."""
    video = str(result.path)
    rows: list[tuple[Row, tuple[ClassScore, ...]]] = [
        ({"video": video, "window": number, **_times(w.start, w.end)}, w.classes)
        for number, w in enumerate(result.windows, 1)
    ]
    whole = {"video": video, "window": WHOLE, **_times(result.windows[0].start, result.windows[-1].end)}
    return [*rows, (whole, result.classes)]


def _short_windows(result: VideoClasses) -> list[Row]:
    return [
        {**row, "classes": ", ".join(f"{c.label} {c.probability:.2f}" for c in classes)}
        for row, classes in _windows(result)
    ]


def _entry(result: ImageDetections | VideoClasses) -> Row:
    if isinstance(result, VideoClasses):
        windows = [{**_times(w.start, w.end), "classes": [_class(c) for c in w.classes]} for w in result.windows]
        return {"video": str(result.path), "windows": windows, "classes": [_class(c) for c in result.classes]}
    detections = [{**_object(d), "box": _box(d), "mask": d.mask and asdict(d.mask)} for d in result.detections]
    return {"image": str(result.path), "width": result.width, "height": result.height, "detections": detections}


def _class(score: ClassScore) -> Row:
    return {"class": score.number, "label": score.label, "probability": round(score.probability, 4)}


def _object(detection: Detection) -> Row:
    return {"class": detection.number, "label": detection.label, "score": round(detection.score, 4)}


def _box(detection: Detection) -> list[float]:
    return [round(edge, 1) for edge in detection.box]


def _times(start: float, end: float) -> Row:
    return {"start": round(start, 3), "end": round(end, 3)}
