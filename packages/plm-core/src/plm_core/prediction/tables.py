"""Predictions as rows with equal keys, for tables and files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from plm_core.prediction.results import ImageClasses, Result

Row = dict[str, Any]


def rows_of(results: Iterable[Result]) -> list[Row]:
    """Return a row for each class of an image, and for each object in an image. Edges of boxes are in pixels."""
    return [row for result in results for row in _rows(result)]


def _rows(result: Result) -> list[Row]:
    image = str(result.path)
    if isinstance(result, ImageClasses):
        return [
            {"image": image, "class": c.number, "label": c.label, "probability": round(c.probability, 4)}
            for c in result.classes
        ]
    return [
        {
            "image": image,
            "class": d.number,
            "label": d.label,
            "score": round(d.score, 4),
            **{edge: round(value, 1) for edge, value in zip(("x0", "y0", "x1", "y1"), d.box, strict=True)},
        }
        for d in result.detections
    ]
