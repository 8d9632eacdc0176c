"""Files that are written completely or not at all, and the folder for results that can be recomputed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plm_core.errors import FileError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` only when the block ends without an error.

    After an error (full disk, Ctrl-C) a file that was at ``path`` before is unchanged, and no temporary file is left.

    Raises:
        FileError: An OSError occurred, here or in the block.
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
    """Return the mode that ``open(path, "w")`` would leave: that of an existing file, or else that of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: str | Path, text: str) -> None:
    """Write a text file completely or not at all (UTF-8)."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def cache_dir(name: str) -> Path:
    """Return the folder for recomputable results of one package: ``$PLM_CACHE/name``, by default ``~/.cache/plm/name``.

    Downloads are not kept here. huggingface_hub keeps them under HF_HOME.
    """
    root = os.environ.get("PLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plm"
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
