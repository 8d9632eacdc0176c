"""Counts the rows of a source by kind, and finds all that is wrong with them before a training starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plm_core.datasets.conversations import REGISTRIES
from plm_core.errors import InputError
from plm_core.lm.data.registry import load_registry
from plm_core.lm.data.rows import KINDS, Medium, Row, Stored
from plm_core.lm.data.sources import Rows, open_rows
from plm_core.utils.images import check_image
from plm_core.utils.progress import track


@dataclass
class Checked:
    """What one source holds."""

    name: str
    rows: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """The number of good rows of each kind that there is."""
    faulty: int = 0
    """The number of rows with faults."""


@dataclass
class DataReport:
    """What a source holds, or all sources of a registry, and what is wrong with it."""

    source: str
    datasets: list[Checked] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """The first faults, each with the file and the line."""

    @property
    def faulty(self) -> int:
        """The number of faults, also of those that are not listed."""
        return sum(dataset.faulty for dataset in self.datasets)


def check_data(source: str | Path, *, media: bool = False, limit: int | None = 20) -> DataReport:
    """Read every row of a source.

    Args:
        source: What `plm_core.lm.data.open_rows` takes, or a registry (.yaml).
        media: Whether to read each image and find the frames of each video, too.
        limit: The number of faults that are listed (default: all).

    Raises:
        InputError: There is no such source, or the registry is broken. A source that a registry names is no error here,
            but a fault.
        MissingDependency: A package for the source, or PyAV for videos, is not installed.
    """
    report = DataReport(str(source))
    if Path(source).suffix.lower() not in REGISTRIES:
        _check(report, str(source), open_rows(source), media, limit)
        return report
    for name, entry in load_registry(source).items():
        try:
            rows = entry.open()
        except InputError as e:
            report.datasets.append(Checked(name, faulty=1))
            _note(report, f"{name}: {e}", limit)
        else:
            _check(report, name, rows, media, limit)
    return report


def _check(report: DataReport, name: str, rows: Rows, media: bool, limit: int | None) -> None:
    kinds: Counter[str] = Counter()
    dataset = Checked(name, len(rows))
    report.datasets.append(dataset)
    for index in track(range(len(rows)), f"checking {Path(name).name}", len(rows)):
        try:
            row = rows[index]
            if media:
                _check_media(row)
        except InputError as e:
            dataset.faulty += 1
            _note(report, str(e), limit)
        else:
            kinds[row.kind] += 1
    dataset.kinds = {kind: kinds[kind] for kind in KINDS if kinds[kind]}


def _note(report: DataReport, fault: str, limit: int | None) -> None:
    if limit is None or len(report.faults) < limit:
        report.faults.append(fault)


def _check_media(row: Row) -> None:
    wrong = list(_broken(row))
    if wrong:
        raise InputError(f"{row.place}: {'; '.join(wrong)}")


def _broken(row: Row) -> Iterator[str]:
    """Yield what is wrong with the media of a row."""
    for number, medium in enumerate(row.media, 1):
        which = f"image {number}: " if len(row.media) > 1 else ""
        try:
            _check_medium(medium, row)
        except InputError as e:
            yield f"{which}{e}"


def _check_medium(medium: Medium, row: Row) -> None:
    contents = medium.read() if isinstance(medium, Stored) else medium
    if row.media_type != "video":
        check_image(contents)
        return
    from plm_core.video.file import Video  # torch is imported with it, which images do not need

    Video(contents)
