"""The checkpoints of a training: the folder that holds them, and the newest one that is complete."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plm_core.errors import FileError, InputError

_log = logging.getLogger(__name__)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None. The Trainer writes the state file last."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            _log.warning("%s is not complete and is skipped", checkpoint)
        else:
            return checkpoint
    return None


@contextmanager
def run_folder(out: Path | None, resume: bool) -> Iterator[Path]:
    """Yield the folder of a training: ``out``, which is created if it is absent, or for None a temporary folder.

    Raises:
        InputError: ``out`` has checkpoints, and ``resume`` is False.
        FileError: The folder cannot be created.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"cannot make the folder {out}: {e.strerror}") from e
    if not resume and any(out.glob("checkpoint-*")):  # a later resume could not tell the two trainings apart
        raise InputError(f"out {str(out)!r} has checkpoints of another training: resume it, or choose another folder")
    yield out
