"""The five tasks of PLM-VideoBench as data: what their rows hold, and what a model and a judge are asked.

| task | question | metric |
|---|---|---|
| fgqa | which of two options, on fine details of an activity | share of questions all of whose rows are right |
| sgqa | an open question of somebody who wears smart glasses | share that a judge finds right |
| rdcap | all that a marked subject does, with its windows | SODA_c with a judge |
| rcap | what a marked subject does in a window | mean score of a judge |
| rtloc | the window in which a marked subject does something | mean recall at four overlaps |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from plm_core.errors import InputError
from plm_core.utils.near_misses import miss
from plm_core.utils.ranges import whole

Judged = Literal["answer", "caption"]
Check = tuple[Callable[[Any], bool], str]
"""A test of a value, and what it allows in words."""


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _name(value: Any) -> bool:
    return _text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _frame(value: Any) -> bool:
    return whole(value, 0)


def _options(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"option_0", "option_1"} and all(map(_text, value.values()))


def _dense(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(map(_piece, value))


def _piece(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and {"start_frame", "end_frame", "caption"} <= set(value)
        and _frame(value["start_frame"])
        and _frame(value["end_frame"])
        and isinstance(value["caption"], str)
    )


def _box(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 4 and all(isinstance(edge, int | float) for edge in value)


def are_boxes(value: Any) -> bool:
    """Return whether a value maps the numbers of frames to boxes ``[x1, y1, x2, y2]``, or to nothing."""
    return isinstance(value, Mapping) and all(
        str(frame).isdecimal() and (not box or _box(box)) for frame, box in value.items()
    )


_A_TEXT: Check = (_text, "a text that is not empty")
_A_NAME: Check = (_name, "a text or a whole number")
_A_FRAME: Check = (_frame, "a whole number from 0")
_QUESTION = {"uid": _A_NAME, "video": _A_TEXT, "question": _A_TEXT, "answer": _A_TEXT}
_SUBJECT = {
    "uid": _A_NAME,
    "video": _A_TEXT,
    "masklet_id": _A_NAME,
    "total_frames": (whole, "a whole number from 1"),
}
_WINDOW = {**_SUBJECT, "caption": _A_TEXT, "start_frame": _A_FRAME, "end_frame": _A_FRAME}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A task of the benchmark.

    Attributes:
        name: Its name in files and commands.
        title: Its name in the published tables.
        max_new_tokens: The longest answer.
        keys: The keys that a row must have, with a check of their values.
        region: Whether a box marks a subject in the frames, and a video must have as many frames as a model is shown.
        judged: Whether a judge compares answers or captions; None for a metric without a judge.
    """

    name: str
    title: str
    max_new_tokens: int
    keys: Mapping[str, Check]
    region: bool = False
    judged: Judged | None = None


OPTIONAL = frozenset({"answer_index", "metadata", "domain", "bbox_map"})
"""Keys that rows may have besides those of their task."""

_ALL = (
    Task(
        name="fgqa",
        title="FGQA",
        max_new_tokens=16,
        keys={**_QUESTION, "qa_uid": _A_NAME, "options": (_options, "two texts, option_0 and option_1")},
    ),
    Task(name="sgqa", title="SGQA", max_new_tokens=16, keys=_QUESTION, judged="answer"),
    Task(
        name="rdcap",
        title="RDCap",
        max_new_tokens=512,
        keys={**_SUBJECT, "dense_captions": (_dense, "a list of start_frame, end_frame and caption")},
        region=True,
        judged="caption",
    ),
    Task(name="rcap", title="RCap", max_new_tokens=512, keys=_WINDOW, region=True, judged="caption"),
    Task(name="rtloc", title="RTLoc", max_new_tokens=16, keys=_WINDOW, region=True),
)
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
"""The tasks by name, in the order of the published tables."""


def chosen(names: Sequence[str] | None) -> list[Task]:
    """Return tasks by their names, in the order of `TASKS`; all of them for None.

    Raises:
        InputError: There is no such task.
    """
    for name in names or ():
        if name not in TASKS:
            raise InputError(miss("task", str(name), TASKS))
    return [task for task in TASKS.values() if names is None or task.name in names]


def row_fault(task: Task, row: Mapping[str, Any], places: Mapping[str, str]) -> str | None:
    """Say what is wrong with a row; None if nothing is. Keys with the value None count as absent.

    Args:
        task: The task.
        row: The row.
        places: Where the rows before it are, by ``uid``.
    """
    absent = [key for key in task.keys if row.get(key) is None]
    if absent:
        unknown = unknown_keys(task, row)
        return f"no {', '.join(absent)}" + (f"; unknown: {', '.join(unknown)}" if unknown else "")
    for key, (test, allowed) in task.keys.items():
        if not test(row[key]):
            return f"{key} is {row[key]!r}; {allowed} is expected"
    if "bbox_map" in row and row["bbox_map"] is not None and not are_boxes(row["bbox_map"]):
        return "bbox_map does not map frames to [x1, y1, x2, y2] or null"
    if str(row["uid"]) in places:
        return f"uid {row['uid']!r} is that of {places[str(row['uid'])]}"
    if task.name == "fgqa" and row["answer"] not in row["options"].values():
        return f"answer {row['answer']!r} is none of the options"
    return None


def unknown_keys(task: Task, row: Mapping[str, Any]) -> list[str]:
    """Return the keys of a row that the task does not have."""
    return sorted(set(map(str, row)) - set(task.keys) - OPTIONAL)
