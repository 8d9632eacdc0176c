"""The results of a run as they are finished, in a folder beside the data, so that a later run goes on from them.

For ``data.jsonl`` this is the folder ``data.jsonl.work``: ``job.json`` says what the results depend on, and each line
of ``journal.jsonl`` is one result. A later line replaces an earlier one of the same item, part and stage.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from plm_core.errors import FileError, InputError
from plm_core.utils.files import make_folder, write_text
from plm_core.utils.text import first_line, shown

SYNC = 1.0
"""Seconds after which results are sent to the disk, for the case of a power cut. A kill loses none either way."""
KEYS = ("item", "stamp", "part", "stage")
"""The fields of a result that say what it is of: the file, its size and time, the part of it, and the stage of work."""

Record = Mapping[str, Any]


class Journal:
    """A context in which results are kept. Only where each line begins is held in memory.

    Args:
        out: The file that the data are written to.
        job: All that the results depend on besides the files.
        resume: Whether to go on from what is there.

    Attributes:
        job: All that the results depend on, also those of earlier runs.

    Raises:
        InputError: ``out`` exists and ``resume`` is False, the results there are of another job, the file is not
            one of ours, a line is damaged, or another process writes it. On entering.
        FileError: The folder cannot be written. On entering.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], resume: bool) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.work")
        self.path = self.folder / "journal.jsonl"
        self.job: dict[str, Any] = json.loads(json.dumps(job))
        self._resume = resume
        self._lock = FileLock(self.folder / "lock")
        self._places: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
        self._end = 0
        self._synced = 0.0

    def __enter__(self) -> Journal:
        self._check_out()
        make_folder(self.folder)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as e:
            raise InputError(f"another process writes {str(self.out)!r}; wait for it, or name another file") from e
        except NotImplementedError:  # a file system without locks
            pass
        except OSError as e:
            raise FileError(f"cannot lock {str(self.folder)!r}: {e.strerror}") from e
        try:
            self._check_job()
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def items(self) -> list[tuple[str, str]]:
        """Return the names of all items with their stamps, in the order in which they came. Later stamps count."""
        return list({name: stamp for name, stamp in self._places}.items())

    def of(self, item: str, stamp: str) -> Iterator[Record]:
        """Yield the results of an item, the last one of each part and stage, by part and in order."""
        places = self._places.get((item, stamp), {})
        if not places:
            return
        with open(self.path, "rb") as file:
            for place in places.values():
                file.seek(place)
                yield json.loads(file.readline())

    def add(self, record: Record) -> None:
        """Append a result, completely or not at all.

        Raises:
            FileError: It cannot be written. The journal is as it was before.
        """
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.truncate(self._end)  # half a line that a killed process left
                try:
                    if file.write(line) != len(line):
                        raise OSError("only a part was written")
                    if time.monotonic() - self._synced > SYNC:
                        os.fsync(file.fileno())
                        self._synced = time.monotonic()
                except OSError:
                    file.truncate(self._end)
                    raise
        except OSError as e:
            raise FileError(f"cannot write {str(self.path)!r}: {e.strerror or first_line(e)}") from e
        self._note(record, self._end)
        self._end += len(line)

    def _check_out(self) -> None:
        ours = self.path.exists()
        if not self._resume and (ours or self.out.exists()):
            raise InputError(f"out {str(self.out)!r} exists; resume goes on from there, or name another file")
        if self.out.exists() and not ours:
            raise InputError(
                f"out {str(self.out)!r} exists, and {self.path.parent.name!r} beside it, which says how it was made, "
                "does not; name another file"
            )

    def _check_job(self) -> None:
        """Compare what the results depend on with what is there. What is not there yet is added."""
        file = self.folder / "job.json"
        before: dict[str, Any] = {}
        if file.exists():
            try:
                before = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as e:
                raise InputError(f"{str(file)!r} cannot be read ({first_line(e)}): name another file") from e
        for name, value in self.job.items():
            old = before.get(name, value)
            if old != value:
                raise InputError(
                    f"out {str(self.out)!r} was begun with {name} {shown(repr(old), 200)}, now it is "
                    f"{shown(repr(value), 200)}: name another file"
                )
        self.job = before | self.job
        if self.job != before:
            write_text(file, json.dumps(self.job, indent=2, ensure_ascii=False) + "\n")

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    self._note(_parsed(line, self.path, number), self._end)
                    self._end += len(line)
        except FileNotFoundError:
            return
        except OSError as e:
            raise FileError(f"{str(self.path)!r} cannot be read: {e.strerror}") from e

    def _note(self, record: Record, place: int) -> None:
        item, stamp, part, stage = (record[key] for key in KEYS)
        self._places.setdefault((item, stamp), {})[part, stage] = place


def _parsed(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{str(path)!r}, line {number}: no JSON ({first_line(e)})") from e
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in KEYS):
        raise InputError(f"{str(path)!r}, line {number}: {shown(line.decode(errors='replace').strip())} is no result")
    return record
