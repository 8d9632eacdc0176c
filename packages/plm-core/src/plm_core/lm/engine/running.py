"""`make`: captions of images and videos, and questions about them, written by models, as data to train on.

An interrupted run is resumed. What is finished is never done again, and what failed is tried again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from plm_core.embeddings.partial import stamp
from plm_core.errors import FileError, InputError, PlmError
from plm_core.lm.engine.journal import Journal, Record
from plm_core.lm.engine.making import Engine, Source, work
from plm_core.lm.engine.prompts import Prompts
from plm_core.lm.engine.rows import part_name, rows_of
from plm_core.lm.engine.scenes import SceneSettings
from plm_core.lm.engine.workers import Captioner, Writer
from plm_core.prediction.files import Kind, find_files
from plm_core.utils.files import atomic_path
from plm_core.utils.progress import progress_bar
from plm_core.utils.ranges import whole
from plm_core.utils.text import shown

PATIENCE = 20
"""The number of failures one after the other, without one success, after which a run gives up."""


@dataclass
class Report:
    """What a run did.

    Attributes:
        out: The file with the rows.
        rows: The number of its rows by kind: captions and questions.
        items: The number of images and videos.
        resumed: The number of those that were finished before.
        unreadable: The files that could not be read, and why.
        failed: Parts for which a captioner or writer gave no text that can be used, and why.
        finished: The steps that were finished now.
    """

    out: Path
    rows: dict[str, int] = field(default_factory=dict)
    items: int = 0
    resumed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)


def make(
    files: Sequence[str | Path] | Mapping[str | Path, str],
    out: str | Path,
    *,
    captioner: Captioner | None = None,
    video_captioner: Captioner | None = None,
    merge: Writer | None = None,
    writer: Writer | None = None,
    questions: int = 0,
    prompts: Prompts | None = None,
    scenes: SceneSettings | None = None,
    frames: int = 32,
    batch_size: int = 8,
    max_bad: int = 10,
    resume: bool = False,
    ray: str | None = None,
) -> Report:
    """Write captions of images and videos, and questions about them.

    A video is split into clips (`plm_core.lm.engine.scenes`). The captioner describes key frames of each, the video
    captioner the whole, and ``merge`` makes one caption of these. Without it the descriptions stand one after the
    other, and the row says ``"merged": false`` in its metadata. From the caption and the notes the writer makes
    questions with answers.

    The results so far are kept in a folder beside the file, ``out`` with the ending ``.work``.

    Args:
        files: Images, videos and folders of them; or notes by file, such as the text that an image shows or the labels
            of a video, which the writer is told.
        out: The file of JSON lines to write, which `plm_core.lm.data.open_rows` reads.
        captioner: Describes images and key frames: see `plm_core.lm.engine.workers`.
        video_captioner: Describes clips.
        merge: Makes one caption of several descriptions. It may be the same function as ``writer``.
        writer: Writes questions.
        questions: The number of questions about each image and clip.
        prompts: What they are asked.
        scenes: How videos are split.
        frames: The number of frames of a clip that the video captioner is shown at most.
        batch_size: The number of images, or clips of a video, that are worked on together.
        max_bad: The number of files that cannot be read and are left out.
        resume: Whether to go on from what ``out`` has, and add to it: other files, or questions where there are none.
        ray: Address of a Ray cluster that does the work, or ``local`` to start one on this machine. The workers read
            the files at the same paths. None for this process.

    Raises:
        InputError: An argument is not allowed, ``out`` was begun in another way, or more than ``max_bad`` files cannot
            be read.
        MissingDependency: PyAV or Ray is not installed.
        FileError: ``out`` cannot be written. What was finished before is kept.
        PlmError: A captioner or writer can give no text at all, or they failed `PATIENCE` times without one success.
    """
    for name, value, least in (
        ("questions", questions, 0),
        ("frames", frames, 1),
        ("batch_size", batch_size, 1),
        ("max_bad", max_bad, 0),
    ):
        if not whole(value, least):
            raise InputError(f"{name} {value!r} is not allowed: a whole number from {least} is")
    engine = Engine(
        captioner=captioner,
        video_captioner=video_captioner,
        merge=merge,
        writer=writer,
        prompts=prompts or Prompts(),
        scenes=scenes or SceneSettings(),
        frames=frames,
        questions=questions,
        batch_size=batch_size,
    )
    target = Path(out)
    sources = _sources(files, target)
    _check_workers(engine, sources)
    report = Report(target, items=len(sources))
    with Journal(target, engine.facts(), resume) as journal:
        try:
            _work(engine, _Tasks(sources, engine, journal, report), max_bad, ray)
        except BaseException:
            with suppress(FileError):  # the error that ended the work says more
                _write(journal, sources, report)
            raise
        _write(journal, sources, report)
    return report


def _sources(files: Sequence[str | Path] | Mapping[str | Path, str], out: Path) -> list[Source]:
    """Return the files to work on, each once. Folders are looked through."""
    if isinstance(files, str | Path):
        raise InputError("files is one path; a list of images, videos and folders is expected")
    sources: dict[str, Source] = {}
    for given in files:
        notes = files[given] if isinstance(files, Mapping) else ""
        for file in find_files([given]):
            if file.kind == Kind.OTHER and file.folder is not None:
                continue
            if file.kind == Kind.OTHER:
                raise InputError(f"path {str(file.path)!r} has no ending of an image or a video")
            name = _name(file.path, out)
            sources[name] = Source(
                path=file.path, name=name, stamp=stamp(file.path), notes=notes, video=file.kind == Kind.VIDEO
            )
    if not sources:
        raise InputError("files is empty; images and videos are expected")
    return list(sources.values())


def _name(path: Path, out: Path) -> str:
    """Return the path of a file as a row has it: below the folder of the rows if it is there, else the whole path."""
    full, folder = Path(os.path.abspath(path)), Path(os.path.abspath(out)).parent
    return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else full.as_posix()


def _check_workers(engine: Engine, sources: Sequence[Source]) -> None:
    images = [source for source in sources if not source.video]
    if images and engine.captioner is None:
        raise InputError(f"{images[0].name} is an image, and there is no captioner")
    if engine.captioner is None and engine.video_captioner is None:
        raise InputError("there is neither a captioner nor a video_captioner; one of them is needed")
    if engine.questions and engine.writer is None:
        raise InputError(f"questions is {engine.questions}, and there is no writer")


class _Tasks:
    """Groups of images, and single videos, of which something is left to do. They take the results."""

    def __init__(self, sources: Sequence[Source], engine: Engine, journal: Journal, report: Report) -> None:
        self.sources = sources
        self.engine = engine
        self.journal = journal
        self.report = report
        self._failures = 0
        self._passed = 0

    def __iter__(self) -> Iterator[list[Source]]:
        images: list[Source] = []
        for source in self.sources:
            records = _by_stage(self.journal.of(source.name, source.stamp))
            if _is_finished(source, records, bool(self.engine.questions)):
                self.report.resumed += 1
                self._passed += 1
                continue
            left = replace(source, records=records)
            if left.video:
                yield [left]
                continue
            images.append(left)
            if len(images) == self.engine.batch_size:
                yield images
                images = []
        if images:
            yield images

    def passed(self) -> int:
        """Return how many items were passed over, as finished before, since the last call."""
        passed, self._passed = self._passed, 0
        return passed

    def take(self, record: Record, max_bad: int) -> None:
        """Keep a record, and count it.

        Raises:
            InputError: There are more than ``max_bad`` files that cannot be read.
            PlmError: There were `PATIENCE` failures and no success.
            FileError: It cannot be kept.
        """
        self.journal.add(record)
        if record["stage"] == "bad":
            self.report.unreadable[record["item"]] = record["error"]
            if len(self.report.unreadable) > max_bad:
                raise InputError(
                    f"more than max_bad={max_bad} files cannot be read; the last one is "
                    f"{shown(record['item'], 200)}: {record['error']}"
                )
        elif "error" in record:
            part = f"{record['item']}#{record['part']}" if record["part"] else record["item"]
            self.report.failed[f"{part} {record['stage']}"] = record["error"]
            self._failures += 1
            if self._failures >= PATIENCE:
                raise PlmError(f"{PATIENCE} texts failed one after the other; the last one: {record['error']}")
        else:
            self.report.finished[record["stage"]] += 1
            if record["stage"] != "scenes":
                self._failures = 0


def _is_finished(source: Source, records: Mapping[tuple[str, str], Record], asks: bool) -> bool:
    """Return whether nothing is left to do for an item."""
    parts = [""]
    if source.video:
        scenes = records.get(("", "scenes"))
        if scenes is None:
            return False
        parts = [part_name(scene["first"], scene["last"]) for scene in scenes["scenes"]]
    needed = {"caption": "caption", **({"pairs": "pairs"} if asks else {})}
    return all(value in records.get((part, stage), {}) for part in parts for stage, value in needed.items())


def _work(engine: Engine, tasks: _Tasks, max_bad: int, ray: str | None) -> None:
    with progress_bar("items", len(tasks.sources)) as advance:
        if ray is not None:
            from plm_core.lm.engine.ray_backend import work_on_ray

            with closing(work_on_ray(engine, iter(tasks), ray)) as results:
                for count, records in results:
                    for record in records:
                        tasks.take(record, max_bad)
                    advance(count + tasks.passed())
            return
        for sources in tasks:
            for record in work(engine, sources):
                tasks.take(record, max_bad)
            advance(len(sources) + tasks.passed())


def _write(journal: Journal, sources: Sequence[Source], report: Report) -> None:
    """Write the rows of all items of the journal: those of this run in their order, and then the others."""
    # the results of a file as it is now count, not the last ones of its name
    stamps = {source.name: source.stamp for source in sources}
    stamps |= {name: version for name, version in journal.items() if name not in stamps}
    kinds: Counter[str] = Counter()
    with atomic_path(report.out) as part, open(part, "w", encoding="utf-8") as file:
        for name, version in stamps.items():
            records = _by_stage(journal.of(name, version))
            for row in rows_of(name, records, journal.job):
                kinds["questions" if "conversations" in row else "captions"] += 1
                file.write(json.dumps(row) + "\n")
    report.rows = dict(kinds)


def _by_stage(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    return {(record["part"], record["stage"]): record for record in records}
