"""Files of JSON lines that grow by one finished row at a time, so that a run goes on after a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from plm_core.errors import FileError, InputError
from plm_core.utils.files import make_folder
from plm_core.utils.text import first_line, shown

RUN = "run.json"
"""The file beside the predictions that says what they depend on."""
SYNC = 1.0
"""Seconds after which rows are sent to the disk, for the case of a power cut. A kill loses none either way."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Create a folder, and keep other processes from writing to it while the block runs.

    Raises:
        InputError: Another process writes to it.
        FileError: It cannot be written.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as e:
        raise InputError(f"another process writes to {str(folder)!r}; wait for it, or name another folder") from e
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as e:
        raise FileError(f"cannot lock {str(folder)!r}: {e.strerror}") from e
    try:
        yield
    finally:
        lock.release()


class Records:
    """Rows by ``uid`` in a file, of which a later one replaces an earlier one.

    Args:
        path: The file, which is created by the first row.

    Raises:
        InputError: The file has a line that is no row. Half a line at its end, which a killed process leaves, is not
            looked at, and goes when a row is added.
        FileError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self._end = 0
        self._synced = 0.0
        try:
            contents = path.read_bytes() if path.exists() else b""
        except OSError as e:
            raise FileError(f"{str(path)!r} cannot be read: {e.strerror}") from e
        for number, line in enumerate(contents.splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            self._end += len(line)
            if line.strip():
                row = _row(line, path, number)
                self.rows[row["uid"]] = row

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, completely or not at all.

        Raises:
            FileError: It cannot be written. The file is as it was before.
        """
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.truncate(self._end)
                try:
                    written = file.write(line)
                    if written != len(line):
                        raise OSError(f"{written} of {len(line)} bytes were written")
                    if time.monotonic() - self._synced > SYNC:
                        os.fsync(file.fileno())
                        self._synced = time.monotonic()
                except OSError:
                    file.truncate(self._end)
                    raise
        except OSError as e:
            raise FileError(f"cannot write {str(self.path)!r}: {e.strerror or first_line(e)}") from e
        self._end += len(line)
        self.rows[row["uid"]] = dict(row)


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{str(path)!r}, line {number}: no JSON ({first_line(e)})") from e
    if not isinstance(row, dict) or not isinstance(row.get("uid"), str | int):
        raise InputError(f"{str(path)!r}, line {number}: {shown(line.decode(errors='replace').strip())} has no uid")
    return {**row, "uid": str(row["uid"])}
