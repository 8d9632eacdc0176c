"""The results so far of a run, beside the file that it will write, so that the next run goes on after a kill.

For ``x.safetensors`` this is the folder ``x.safetensors.partial``. Its ``job.json`` says what the results depend on,
and each other file holds a few hundred rows. Every file is written completely or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from plm_core.embeddings.store import Vectors, write_tensor
from plm_core.errors import FileError, InputError
from plm_core.utils.files import atomic_path, make_folder, write_text

_log = logging.getLogger("plm_core")
ROWS = 256
"""Number of rows after which results are written."""
SECONDS = 30.0
"""Seconds after which they are written although they are fewer."""


def stamp(file: Path) -> str:
    """Return the size of a file and the time of its last change, or an empty text for one that is not there."""
    try:
        facts = os.stat(file)
    except OSError:
        return ""
    return f"{facts.st_size} {facts.st_mtime_ns}"


class PartialResults:
    """A context in which the rows of one output are kept as they are computed.

    Args:
        out: The file that will be written at the end.
        key: All that the rows depend on besides the images. Results under another key are discarded.

    Raises:
        FileError: The folder cannot be written. On entering.
        InputError: Another process writes the same output. On entering.
    """

    def __init__(self, out: Path, key: Mapping[str, str]) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self._key = json.dumps(dict(key), indent=2, sort_keys=True)
        self._lock = FileLock(self.folder / "lock")
        self._next = 0
        self._rows: list[tuple[str, str]] = []
        self._vectors: list[Vectors] = []
        self._written = time.monotonic()

    def __enter__(self) -> PartialResults:
        make_folder(self.folder)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as e:
            raise InputError(
                f"another process writes to {str(self.folder)!r}; wait for it, or name another file"
            ) from e
        except NotImplementedError:  # a file system without locks
            pass
        except OSError as e:
            raise FileError(f"cannot lock {str(self.folder)!r}: {e.strerror}") from e
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(FileError):  # the error that ended the block says more
                self.flush()
        if error is None or not self._shards():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def restore(self, stamps: Mapping[str, str]) -> Iterator[tuple[str, Vectors]]:
        """Yield the paths and rows [D] of images that have not changed since. The last one of a path counts.

        Args:
            stamps: The path of each image and its `stamp`.
        """
        for shard in self._shards():
            try:
                with safe_open(shard, "numpy") as file:
                    rows, vectors = json.loads((file.metadata() or {})["rows"]), file.get_tensor("embeddings")
                for (path, when), vector in zip(rows, vectors, strict=True):
                    if when and stamps.get(path) == when:
                        yield path, vector
            except (OSError, SafetensorError, KeyError, ValueError) as e:
                _log.warning("%s cannot be used, its rows are computed again: %s", shard, e)

    def add(self, rows: Sequence[tuple[str, str]], vectors: Vectors) -> None:
        """Keep rows, and write them to disk when they are many or the last time is long ago.

        Args:
            rows: The path and the `stamp` of each image.
            vectors: The embeddings [len(rows), D].

        Raises:
            FileError: They cannot be written.
        """
        self._rows += rows
        self._vectors.append(vectors)
        if len(self._rows) >= ROWS or time.monotonic() - self._written > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not on disk.

        Raises:
            FileError: They cannot be written.
        """
        if not self._rows:
            return
        texts = {"rows": json.dumps(self._rows)}
        with atomic_path(self.folder / f"{self._next:08}.safetensors") as part:
            write_tensor(np.concatenate(self._vectors), part, texts)
        self._next += 1
        self._rows, self._vectors, self._written = [], [], time.monotonic()

    def _begin(self) -> None:
        """Keep what is there if it belongs to the same key, and else discard it."""
        job = self.folder / "job.json"
        shards = self._shards()
        if not job.is_file() or job.read_text(encoding="utf-8", errors="replace") != self._key:
            if shards:
                _log.warning("%s has results of another model or setting; starting afresh", self.folder)
            for file in shards:
                file.unlink()
            write_text(job, self._key)
        elif shards:
            self._next = int(shards[-1].stem) + 1
        self._written = time.monotonic()

    def _shards(self) -> list[Path]:
        return sorted(file for file in self.folder.glob("*.safetensors") if file.stem.isdigit())
