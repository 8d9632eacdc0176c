"""The files of the benchmark: rows of the five tasks, boxes of the marked subjects, videos.

A folder looks like the published one (``facebook/PLM-VideoBench`` on the Hugging Face Hub). Of several names for a file
the first is taken:

    fgqa/plm_fgqa_test.jsonl      or .parquet, or directly in the folder, or fgqa_test.jsonl, or fgqa.jsonl
    metadata/metadata_test.jsonl  boxes by video and masklet_id, for the three tasks on a region
    videos/                       the videos, also in videos/fgqa, videos/sgqa and videos/stc

Rows may hold their boxes themselves, as ``bbox_map``, and then need no metadata.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plm_core.errors import InputError, MissingDependency
from plm_core.utils.progress import main_process
from plm_core.utils.text import first_line, shown
from plm_core.videobench.tasks import Task, are_boxes, chosen, row_fault, unknown_keys

_log = logging.getLogger("plm_core")
Row = Mapping[str, Any]
Boxes = dict[int, list[float]]

ENDINGS = (".jsonl", ".parquet")
LISTED = 3
"""Number of faulty rows that a message lists."""


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task.

    Attributes:
        task: The task.
        file: The file.
        rows: The rows by ``uid``, which is a text here.
    """

    task: Task
    file: Path
    rows: Mapping[str, Row] = field(repr=False)


def open_data(folder: str | Path, split: str = "test", tasks: Sequence[str] | None = None) -> dict[str, TaskRows]:
    """Read the rows of the tasks in a folder.

    Args:
        folder: The folder.
        split: The part: ``test``, or ``val`` of the tasks on a region.
        tasks: Names of tasks; None for those that the folder has.

    Returns:
        The tasks by name.

    Raises:
        InputError: A file is not there, cannot be read, or has faulty rows. The message counts them and lists the
            first ones with their line numbers.
        MissingDependency: A file is parquet, and pyarrow is not installed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"data {str(folder)!r} is not a folder")
    found = {task: _file_of(root, task.name, split) for task in chosen(tasks)}
    absent = [task.name for task, file in found.items() if file is None]
    if absent and (tasks is not None or len(absent) == len(found)):
        expected = " or ".join(f"{absent[0]}/plm_{absent[0]}_{split}{ending}" for ending in ENDINGS)
        raise InputError(f"data {str(folder)!r} has no file of {', '.join(absent)}; {expected} is expected")
    return {task.name: read_task(file, task) for task, file in found.items() if file is not None}


def _file_of(root: Path, task: str, split: str) -> Path | None:
    names = (f"{task}/plm_{task}_{split}", f"plm_{task}_{split}", f"{task}_{split}", task)
    files = (root / f"{name}{ending}" for name in names for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def read_task(file: Path, task: Task) -> TaskRows:
    """Read the rows of one task.

    Keys that are not the task's are named in a warning.

    Raises:
        InputError: The file cannot be read, has faulty rows or none, or a ``uid`` occurs twice.
        MissingDependency: It is parquet, and pyarrow is not installed.
    """
    rows: dict[str, Row] = {}
    places: dict[str, str] = {}
    unknown: dict[str, str] = {}
    faults: list[str] = []
    count = 0
    for place, value in read_rows(file):
        count += 1
        fault = value if isinstance(value, str) else row_fault(task, value, places)
        if isinstance(value, str) or fault is not None:
            faults.append(f"{place} ({shown(fault or '', 200)})")
            continue
        uid = str(value["uid"])
        rows[uid], places[uid] = {**value, "uid": uid}, place
        for key in unknown_keys(task, value):
            unknown.setdefault(key, place)
    if faults:
        more = f" and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        listed = ", ".join(faults[:LISTED])
        raise InputError(f"data {str(file)!r} has faulty rows, {len(faults)} of {count}: {listed}{more}")
    if not rows:
        raise InputError(f"data {str(file)!r} has no rows")
    if unknown and main_process():
        keys = ", ".join(f"{shown(key)} ({place})" for key, place in unknown.items())
        _log.warning("data %r: unknown keys, which are ignored: %s", str(file), keys)
    return TaskRows(task, file, rows)


def read_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Yield the rows of a jsonl or parquet file with their places, or a text that says why one is no object.

    Raises:
        InputError: The file cannot be read.
        MissingDependency: It is parquet, and pyarrow is not installed.
    """
    if file.suffix == ".parquet":
        yield from _parquet(file)
        return
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield f"line {number}", _object(line)
    except OSError as e:
        raise InputError(f"data {str(file)!r} cannot be read: {e.strerror}") from e


def _object(line: bytes) -> Mapping[str, Any] | str:
    try:
        value = json.loads(line.decode().rstrip())  # or an error at the end would be in a second line
    except json.JSONDecodeError as e:
        return f"no JSON: {e.msg}, column {e.colno}"
    except (UnicodeDecodeError, RecursionError) as e:
        return f"no JSON: {first_line(e)}"
    return value if isinstance(value, dict) else "no object"


def _parquet(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as e:
        raise MissingDependency("parquet needs pyarrow: install plm-core[parquet]") from e
    try:
        rows = parquet.read_table(file).to_pylist()
    except (OSError, ValueError, ArrowException) as e:
        raise InputError(f"data {str(file)!r} cannot be read: {first_line(e)}") from e
    for number, row in enumerate(rows, 1):
        yield f"row {number}", {key: value for key, value in row.items() if value is not None}


class Subjects:
    """The boxes of the marked subjects, from the metadata file of a data folder, which is read when it is needed.

    Args:
        folder: The data folder.
        split: The part.
    """

    def __init__(self, folder: str | Path, split: str = "test") -> None:
        self.file = Path(folder) / "metadata" / f"metadata_{split}.jsonl"
        self._boxes: dict[tuple[str, str], Mapping[str, Any]] | None = None

    def boxes(self, row: Row) -> Boxes:
        """Return the boxes of a row by the number of the frame. Frames without the subject have none.

        Raises:
            InputError: The row has no ``bbox_map``, and the metadata file does not have its video and masklet.
        """
        own = row.get("bbox_map")
        if own is None:
            own = self._read().get((row["video"], str(row["masklet_id"])))
        if own is None:
            raise InputError(f"{self.file} has no boxes of masklet {row['masklet_id']} in {shown(row['video'])!r}")
        return {int(frame): list(box) for frame, box in own.items() if box}

    def check(self, parts: Iterable[TaskRows]) -> None:
        """Read the metadata file, if any row needs it.

        Raises:
            InputError: It is not there or is faulty. Each of these rows would fail for this reason.
        """
        if any(part.task.region and any(row.get("bbox_map") is None for row in part.rows.values()) for part in parts):
            self._read()

    def _read(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        if self._boxes is not None:
            return self._boxes
        boxes = {}
        for place, value in read_rows(self.file):
            if isinstance(value, str):
                raise InputError(f"{self.file}, {place}: {value}")
            if not {"video", "masklet_id", "bbox"} <= set(value) or not are_boxes(value["bbox"]):
                raise InputError(f"{self.file}, {place}: video, masklet_id and bbox are expected, boxes by frame")
            boxes[value["video"], str(value["masklet_id"])] = value["bbox"]
        self._boxes = boxes
        return boxes


def find_video(folders: Sequence[Path], task: Task, name: str) -> Path:
    """Return the file of a video.

    Args:
        folders: The folders to look into, and into their folders ``fgqa``, ``sgqa`` and ``stc``.
        task: The task that asks.
        name: The name in a row. ``.mp4`` may be missing.

    Raises:
        InputError: There is no such file, or the name leads out of the folders.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"video {shown(name)!r} is not allowed: a path below the folder of videos is")
    names = (name,) if Path(name).suffix else (name, f"{name}.mp4")
    below = (".", task.name, "stc") if task.region else (".", task.name)
    files = (folder / part / each for folder in folders for part in below for each in names)
    with suppress(OSError):  # a name that no file can have
        for file in files:
            if file.is_file():
                return file
    raise InputError(f"video {shown(name)!r} is not in {' or '.join(map(str, folders))}")
