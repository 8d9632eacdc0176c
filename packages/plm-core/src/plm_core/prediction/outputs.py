"""Files of predictions: tables (.csv), data (.json) and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from plm_core.errors import InputError
from plm_core.prediction.drawing import draw
from plm_core.prediction.files import InputFile
from plm_core.prediction.results import ImageDetections, Result, VideoClasses
from plm_core.prediction.tables import COLUMNS, csv_rows, json_of
from plm_core.prediction.tasks import Task
from plm_core.prediction.timeline import EXTRA, NEEDED_BY, timeline
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.images import open_image
from plm_core.utils.plots import require_matplotlib

TABLES = (".csv", ".json")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_outputs(outs: Iterable[Path]) -> None:
    """Check the endings of output files. A path without an ending, or of a folder that exists, is a folder.

    Raises:
        InputError: An ending is not allowed.
    """
    for out in outs:
        if not _is_folder(out) and out.suffix.lower() not in (*TABLES, *PICTURES):
            allowed = ", ".join((*TABLES, *PICTURES))
            raise InputError(f"out {str(out)!r} is not allowed: a folder for pictures, or a file with {allowed} is")


class Outputs:
    """The output files of a run. Pictures are written one by one with `add`, tables at the end with `close`.

    Args:
        outs: Paths of files and folders.
        task: The task of the model.
        files: The files to predict for.

    Raises:
        InputError: The task has no pictures, one picture is to show several files, two pictures would be one file, or
            a file to predict for would be overwritten.
        MissingDependency: matplotlib is needed for the pictures of videos and is not installed.
    """

    def __init__(self, outs: Sequence[Path], task: Task, files: Sequence[InputFile]) -> None:
        check_outputs(outs)
        self.task = task
        self.tables = [out for out in outs if not _is_folder(out) and out.suffix.lower() in TABLES]
        self.pictures: list[Mapping[Path, Path]] = [_plan(out, task, files) for out in outs if out not in self.tables]
        if self.pictures and task == Task.VIDEOS:
            require_matplotlib(NEEDED_BY, EXTRA)  # before the model runs
        self.results: list[Result] = []

    def add(self, result: Result) -> None:
        """Take a result, and write the pictures of it."""
        self.results.append(result)
        for plan in self.pictures:
            path = plan[result.path]
            with atomic_path(path) as part:
                _DRAWERS[self.task](result, part, path.suffix.lower())

    def close(self) -> None:
        """Write the tables."""
        for table in self.tables:
            write_text(table, _WRITERS[table.suffix.lower()](self.results, self.task))


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _plan(out: Path, task: Task, files: Sequence[InputFile]) -> dict[Path, Path]:
    """Return the picture to write for each file."""
    if task not in _DRAWERS:
        raise InputError(f"out {str(out)!r} is not allowed: a model for {task} gives {' and '.join(TABLES)} files")
    if _is_folder(out):
        plan = {file.path: out / name for file, name in zip(files, _names(files), strict=True)}
    elif len({file.path for file in files}) > 1:
        raise InputError(f"out {str(out)!r} is one picture for {len(files)} files; name a folder")
    else:
        plan = {file.path: out for file in files}
    sources = {file.path.resolve() for file in files}
    owners: dict[Path, Path] = {}
    for source, picture in plan.items():
        if picture.resolve() in sources:
            raise InputError(f"out {str(out)!r} would overwrite {str(picture)!r}; name another folder or file")
        other = owners.setdefault(picture.resolve(), source)
        if other != source:
            raise InputError(f"out {str(out)!r} has one place for {str(other)!r} and {str(source)!r}: {str(picture)!r}")
    return plan


def _names(files: Sequence[InputFile]) -> list[Path]:
    """Return the names of the pictures. They end in .png, after the file's own ending where two would be the same."""
    names = [file.name.with_suffix(".png") for file in files]
    count = Counter(name for name, _ in {(name, file.path) for name, file in zip(names, files, strict=True)})
    return [
        name if count[name] == 1 else file.name.with_name(file.name.name + ".png")
        for name, file in zip(names, files, strict=True)
    ]


def _draw_objects(result: Result, part: Path, kind: str) -> None:
    assert isinstance(result, ImageDetections)
    picture = draw(open_image(result.path), result.detections)
    picture.save(part, format=Image.registered_extensions()[kind], quality=95)


def _draw_timeline(result: Result, part: Path, kind: str) -> None:
    assert isinstance(result, VideoClasses)
    timeline(result).savefig(part, format=kind.removeprefix("."), dpi=150)


_DRAWERS: Mapping[Task, Callable[[Result, Path, str], None]] = {
    Task.OBJECTS: _draw_objects,
    Task.VIDEOS: _draw_timeline,
}


def _csv(results: Sequence[Result], task: Task) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS[task], lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(results))
    return text.getvalue()


def _json(results: Sequence[Result], task: Task) -> str:
    del task
    return json.dumps(json_of(results), indent=2) + "\n"


_WRITERS: Mapping[str, Callable[[Sequence[Result], Task], str]] = {".csv": _csv, ".json": _json}
