"""One row of data: a conversation, and the image or video that it is about.

The kinds of rows, and the fields of each in a line of JSON:

    image          image: a path, or a list of one; conversations
    multi_image    image: a list of two paths or more, each with an ``<image>`` in a human turn; conversations
    video          video: a path; conversations; start_time and end_time in seconds if it is a part
    text           conversations
    caption        as one of these, with text instead of conversations: the answer to an empty question
    image_region   as image, with bbox: a list of [x, y, w, h] in pixels; width and height, which they are pixels of
    video_region   as video, with bbox_map: {"number of a frame": [x1, y1, x2, y2] or null}

``conversations`` is a list of ``{"from": "human" or "assistant", "value": text}``. A row may also have `SPARE` fields,
which are not looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from plm_core.datasets.captions.data import json_word
from plm_core.errors import InputError
from plm_core.lm.chat import IMAGE, MediaType, exchanges
from plm_core.utils.near_misses import miss
from plm_core.utils.text import shown

KINDS = ("image", "multi_image", "video", "text", "caption", "image_region", "video_region")
"""The kinds of rows."""
SPARE = ("id", "uid", "metadata")
"""Fields that any row may have."""
_FIELDS = (
    "image",
    "video",
    "conversations",
    "text",
    "start_time",
    "end_time",
    "bbox",
    "width",
    "height",
    "bbox_map",
    *SPARE,
)
_BOX = re.compile(r"<\|bbox(\d+)\|>")


class Stored(NamedTuple):
    """A file within a larger one, such as a shard."""

    name: str
    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its contents.

        Raises:
            InputError: The larger file cannot be read, or ends before that.
        """
        try:
            with open(self.file, "rb") as file:
                file.seek(self.offset)
                contents = file.read(self.size)
        except OSError as e:
            raise InputError(f"{str(self.file)!r} cannot be read: {e.strerror}") from e
        if len(contents) < self.size:
            raise InputError(f"{str(self.file)!r} ends in the middle of {self.name}")
        return contents


Medium = Path | bytes | Stored
"""An image or a video: a file, its contents, or a file within another."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A conversation and what it is about."""

    kind: str
    """One of `KINDS`."""
    place: str
    """Where the row is, for messages: ``data.jsonl, line 3``."""
    media_type: MediaType
    conversations: list[Mapping[str, Any]]
    media: tuple[Medium, ...] = ()
    start: float | None = None
    end: float | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Regions of an image as x, y, width and height in pixels."""
    size: tuple[float, float] | None = None
    """The width and height that the boxes are pixels of."""
    frame_boxes: Mapping[str, tuple[float, float, float, float] | None] | None = None
    """The region of a video by the number of the frame, as x1, y1, x2, y2 in pixels; None where it is not seen."""


def parse_row(record: Any, place: str, root: Path | None = None) -> Row:
    """Return a record as a row.

    Args:
        record: What a line of JSON holds. An image or a video may also be its contents, or a `Stored` file.
        place: Where it is, for messages.
        root: The folder of the media (default: the current one).

    Raises:
        InputError: There is something wrong with it; the message names all of it.
    """
    wrong = list(faults(record))
    if wrong:
        raise InputError(f"{place}: {'; '.join(wrong)}")
    images = listed(record.get("image"))
    video = record.get("video")
    media = [video] if video is not None else images
    times = [None if record.get(key) is None else float(record[key]) for key in ("start_time", "end_time")]
    frame_boxes = record.get("bbox_map")
    return Row(
        kind=_kind(record),
        place=place,
        media_type=_media_type(record),
        conversations=conversation_of(record),
        media=tuple((root or Path()) / name if isinstance(name, str) else name for name in media),
        start=times[0],
        end=times[1],
        boxes=tuple(_box(box) for box in record.get("bbox") or ()),
        size=(record["width"], record["height"]) if record.get("bbox") else None,
        frame_boxes=frame_boxes and {str(int(key)): _box(box) if box else None for key, box in frame_boxes.items()},
    )


def faults(record: Any) -> Iterator[str]:
    """Yield in words what is wrong with a record that should be a row."""
    if not isinstance(record, Mapping):
        yield f"{json_word(record)}, no object"
        return
    for key in record:
        if key not in _FIELDS:
            yield miss("key", str(key), _FIELDS)
    record = {key: value for key, value in record.items() if value is not None}
    for check in (_media_faults, _time_faults, _region_faults, _track_faults, _talk_faults):
        yield from check(record)


def listed(image: Any) -> list[Any]:
    """Return the images of a record as a list."""
    return [] if image is None else list(image) if isinstance(image, list) else [image]


def conversation_of(record: Mapping[str, Any]) -> Any:
    """Return the turns of a record. A caption is the answer to an empty question."""
    if record.get("conversations") is None:
        return [{"from": "human", "value": ""}, {"from": "assistant", "value": record.get("text")}]
    return record["conversations"]


def _kind(record: Mapping[str, Any]) -> str:
    present = {key for key in record if record[key] is not None}
    for field, kind in (("bbox", "image_region"), ("bbox_map", "video_region"), ("text", "caption")):
        if field in present:
            return kind
    return _media_type(record)


def _media_type(record: Mapping[str, Any]) -> MediaType:
    if record.get("video") is not None:
        return "video"
    images = listed(record.get("image"))
    return "text" if not images else "image" if len(images) == 1 else "multi_image"


def _media_faults(record: Mapping[str, Any]) -> Iterator[str]:
    if "image" in record and "video" in record:
        yield "both 'image' and 'video'"
    images = listed(record.get("image"))
    if "image" in record and not images:
        yield "'image' is an empty list; leave it out for text alone"
    for field, names in (("image", images), ("video", [record["video"]] if "video" in record else [])):
        for name in names:
            if not (isinstance(name, str | bytes | Stored) and name):
                yield f"{field!r} is {json_word(name) if name != '' else 'empty'}, no path"


def _time_faults(record: Mapping[str, Any]) -> Iterator[str]:
    for key in ("start_time", "end_time"):
        if key in record and "video" not in record:
            yield f"{key!r} without 'video'"
        elif key in record and not (_is_number(record[key]) and record[key] >= 0):
            yield f"{key!r} is {shown(repr(record[key]))}; seconds from 0 on are allowed"


def _region_faults(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the boxes of an image, and with the texts that name them."""
    boxes = record.get("bbox", [])
    if "bbox" in record:
        if len(listed(record.get("image"))) != 1:
            yield "'bbox' without an 'image', or with several"
        if not isinstance(boxes, list) or not boxes or not all(_is_box(box) and min(box[2:]) >= 0 for box in boxes):
            yield "'bbox' is no list of boxes [x, y, w, h]"
            return
    for key in ("width", "height"):
        if key in record and "bbox" not in record:
            yield f"{key!r} without 'bbox'"
        elif "bbox" in record and not (_is_number(record.get(key)) and record[key] > 0):
            yield f"{key!r} is {shown(repr(record.get(key)))}; beside 'bbox' a number of pixels is needed"
    for number in _box_numbers(record):
        if number >= len(boxes):
            yield f"a text names <|bbox{number}|>, and 'bbox' has {len(boxes)} boxes"


def _box_numbers(record: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the boxes that the texts name."""
    turns = conversation_of(record)
    texts = [turn.get("value") for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    found = {int(number) for text in texts if isinstance(text, str) for number in _BOX.findall(text)}
    return sorted(found)


def _track_faults(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the boxes of a video."""
    if "bbox_map" not in record:
        return
    boxes = record["bbox_map"]
    if "video" not in record:
        yield "'bbox_map' without 'video'"
    if not isinstance(boxes, Mapping) or not boxes:
        yield "'bbox_map' is no object with boxes by frame"
        return
    for key, box in boxes.items():
        if not re.fullmatch(r"\d{1,9}", str(key)):
            yield f"'bbox_map' has the key {shown(repr(key))}, no number of a frame"
        if box is not None and not (_is_box(box) and box[0] <= box[2] and box[1] <= box[3]):
            yield f"'bbox_map' has {shown(repr(box))} at {shown(str(key))}; [x1, y1, x2, y2] or null is allowed"


def _talk_faults(record: Mapping[str, Any]) -> Iterator[str]:
    if "text" in record and "conversations" in record:
        yield "both 'conversations' and 'text'"
        return
    if "text" not in record and "conversations" not in record:
        yield "neither 'conversations' nor 'text'"
        return
    if "text" in record and not (isinstance(record["text"], str) and record["text"]):
        yield f"'text' is {json_word(record['text']) if record['text'] != '' else 'empty'}, no caption"
        return
    try:
        pairs = exchanges(conversation_of(record)).pairs
    except InputError as e:
        yield str(e)
        return
    images = len(listed(record.get("image")))
    markers = sum(question.count(IMAGE) for question, _ in pairs)
    if images > 1 and markers != images:
        yield f"the human turns have {markers} {IMAGE} for {images} images"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_box(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box))


def _box(box: Any) -> tuple[float, float, float, float]:
    a, b, c, d = box
    return a, b, c, d
