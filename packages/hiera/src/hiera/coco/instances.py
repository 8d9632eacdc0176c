"""COCO's instances format: the reading of a file and the check of each annotation."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiera.coco.run_lengths import from_segmentation
from plm_core import InputError

Instances = dict[str, list[dict[str, Any]]]


def read_instances(path: Path) -> Instances:
    """Read an instances file.

    Returns:
        A dict of the file's ``images``, ``annotations`` and ``categories``.

    Raises:
        InputError: The file is not JSON, lacks a part or a key, or contains an id twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as JSON: {e}") from e
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; COCO's instances format is an object")
    required = {"images": {"id", "file_name", "height", "width"}, "annotations": set(), "categories": {"id"}}
    for part, keys in required.items():
        rows = content.get(part)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: {part!r} must be a list of objects, as in COCO's instances format")
        for number, row in enumerate(rows):
            if missing := sorted(keys - row.keys()):
                raise InputError(f"{path}: {part}[{number}] lacks {', '.join(missing)}")
        ids = Counter(row["id"] for row in rows if keys)
        if repeated := [i for i, count in ids.items() if count > 1]:
            raise InputError(f"{path}: {part} has the id {repeated[0]} more than once")
    return content


def check_annotation(
    annotation: dict[str, Any], labels: Mapping[Any, int], image: Mapping[str, Any]
) -> dict[str, Any] | str:
    """Check an annotation and convert it to the form that `hiera.coco.DetectionDataset.annotations` returns.

    Args:
        annotation: An entry of the file's annotations.
        labels: The label of each category id.
        image: The entry of the annotation's image.

    Returns:
        The converted annotation, without its own id and the id of its image, and without a segmentation if it has none
        that can be drawn; or, as text, the reason why the annotation is bad.
    """
    box = annotation.get("bbox")
    four_numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box)
    if not four_numbers or not all(math.isfinite(n) for n in box or ()):
        return "no box of four finite numbers"
    x, y, width, height = box  # type: ignore[misc]
    if width < 0 or height < 0:
        return "a negative size"
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, image["width"]), min(y + height, image["height"])
    if width and height and (x0 >= x1 or y0 >= y1):
        return "a box outside of its image"
    # Boxes are trained in float32, in which a tiny one may become empty.
    if not (np.float32(x0) < np.float32(x1) and np.float32(y0) < np.float32(y1)):
        return "an empty box"
    segmentation = from_segmentation(annotation.get("segmentation"), image["height"], image["width"])
    area = annotation.get("area")
    return {
        "category_id": labels[annotation["category_id"]],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": area if isinstance(area, int | float) and math.isfinite(area) else (x1 - x0) * (y1 - y0),
        "iscrowd": int(annotation.get("iscrowd", 0)),
        **({"segmentation": segmentation} if segmentation is not None else {}),
    }
