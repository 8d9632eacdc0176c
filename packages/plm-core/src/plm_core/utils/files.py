"""Files that are written whole or not at all, and the place for what may be thrown away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plm_core.errors import FileError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes the name ``path`` only when the block ends without an error.

    After an error (full disk, Ctrl-C) what stood under ``path`` before is untouched and nothing is left beside it.

    Raises:
        FileError: For an OSError, also one that the block raises.
    """
    path = Path(path)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(fd)
        part = Path(name)
        yield part
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        part.chmod(_mode(path))
        part.replace(path)
    except OSError as e:
        raise FileError(f"cannot write {path}: {e}") from e
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """What ``open(path, "w")`` would leave: the mode of the file that is there, else that of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all (UTF-8)."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def cache_dir(name: str) -> Path:
    """Folder for recomputable results of one piece: ``$PLM_CACHE/name``, by default ``~/.cache/plm/name``.

    Downloads are not kept here: they are huggingface_hub's, under HF_HOME.
    """
    root = os.environ.get("PLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plm"
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
