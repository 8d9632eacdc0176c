"""The rows that cannot be used while a model is trained: counted, listed, left out up to a limit."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from plm_core.errors import FileError, InputError
from plm_core.utils.text import shown

_log = logging.getLogger("plm_core")


class BadRows:
    """Counts the rows that cannot be used, each once.

    Processes that load data share the count by the report. Without a report each of them counts for itself.

    Args:
        max_bad: The number of rows that may be left out.
        report: A file of JSON lines, ``{"row": where it is, "reason": ...}``, to which rows are added. Those that are
            in it count. None for warnings instead.

    Raises:
        InputError: ``max_bad`` is negative.
    """

    def __init__(self, max_bad: int = 0, report: str | Path | None = None) -> None:
        if max_bad < 0:
            raise InputError(f"max_bad {max_bad} is not allowed: 0 or more is")
        self.max_bad = max_bad
        self.report = None if report is None else Path(report)
        self._known: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.listed())

    def listed(self) -> dict[str, str]:
        """Return the reasons by row, of all processes if there is a report."""
        if self.report is not None:
            self._known.update(self._read(self.report))
        return dict(self._known)

    def add(self, place: str, reason: str) -> None:
        """Note a row that cannot be used.

        Raises:
            InputError: There are more than ``max_bad`` now.
            FileError: The report cannot be written.
        """
        if place not in self.listed():
            self._known[place] = reason
            self._write(place, reason)
        if len(self._known) > self.max_bad:
            raise self._too_many(place, reason)

    def _too_many(self, place: str, reason: str) -> InputError:
        row = f"{shown(place, 200)}: {reason}"
        if not self.max_bad:
            return InputError(f"{row}; max_bad=1 or more leaves such rows out")
        listed = f", which are listed in {self.report}" if self.report else ""
        return InputError(f"more than max_bad={self.max_bad} rows cannot be used{listed}; the last one is {row}")

    def _write(self, place: str, reason: str) -> None:
        if self.report is None:
            if self.max_bad:
                _log.warning("left out: %s: %s", shown(place, 200), shown(reason, 200))
            return
        line = json.dumps({"row": place, "reason": reason}) + "\n"
        try:
            self.report.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(file, line.encode())  # one call, so that the lines of several processes do not mix
            finally:
                os.close(file)
        except OSError as e:
            raise FileError(f"cannot write {self.report}: {e.strerror}") from e

    @staticmethod
    def _read(report: Path) -> dict[str, str]:
        try:
            # another process may be writing the last line
            lines = report.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
            return {row["row"]: row["reason"] for row in map(json.loads, lines)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"report {str(report)!r} is no list of bad rows; name another file") from e
