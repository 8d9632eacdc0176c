"""Files that are written completely or not at all, and the folder for results that can be recomputed."""

from __future__ import annotations

import errno
import functools
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plm_core.errors import FileError

_PART = re.compile(r"\..*\.plm-[0-9a-f]{8}\.part", re.DOTALL)
_DAY = 24 * 3600.0


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` only when the block ends without an error.

    After an error (full disk, Ctrl-C) a file that was at ``path`` before is unchanged, and no temporary file is left.
    A killed process leaves one, which goes when a file is written to the folder a day later. If ``path`` is a symbolic
    link, the file that it points to is written.

    Raises:
        FileError: An OSError occurred, here or in the block, ``path`` is not a regular file, or it begins with ``~``.
    """
    with atomic_paths(path) as (part,):
        yield part


@contextmanager
def atomic_paths(*paths: str | Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary paths for several files that belong together. They are renamed only when the block ends.

    The last path completes the others: an old file there is removed before the first is renamed. So a process that is
    killed at any moment leaves all old files, all new files, or none at the last path.

    Raises:
        FileError: As `atomic_path` raises it. After an error in the block the old files are unchanged.
    """
    parts: list[Path] = []
    wanted = [_refuse_home(path) for path in paths]
    try:
        targets = [_target(path) for path in wanted]
        parts.extend(_new_part(target) for target in targets)  # those before an error are in the list
        modes = [stat.S_IMODE(part.stat().st_mode) for part in parts]
        yield tuple(parts)
        for part in parts:
            with open(part, "rb") as written:
                os.fsync(written.fileno())
        for part, target, mode in zip(parts, targets, modes, strict=True):
            # safetensors puts a file of its own in the place of the part, which nobody else may read
            part.chmod(stat.S_IMODE(target.stat().st_mode) & 0o777 if target.exists() else mode)
        if len(targets) > 1:
            targets[-1].unlink(missing_ok=True)
        for part, target in zip(parts, targets, strict=True):
            part.replace(target)
    except OSError as e:
        raise FileError(f"cannot write {', '.join(map(str, paths))}: {e}") from e
    finally:
        for part in parts:
            with suppress(OSError):  # a disk that fails keeps the part, and the error above says why
                part.unlink(missing_ok=True)


def _refuse_home(path: str | Path) -> Path:
    """Return the path of something to write, unless it begins with ``~``. Only shells and our commands expand that.

    Raises:
        FileError: It does. A folder of that name would be created here.
    """
    path = Path(path)
    full = os.path.expanduser(path)
    if full != str(path):
        raise FileError(f"path {str(path)!r} begins with ~, which is not expanded here: write {full!r}")
    return path


def _target(path: Path) -> Path:
    """Return the file that is written for ``path``, behind any symbolic links, whose folder exists after the call."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if target.exists() and not target.is_file():  # a folder, or a device such as /dev/null
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_old_parts(target.parent)
    return target


def _new_part(target: Path) -> Path:
    """Create an empty file beside ``target`` that nobody can read who cannot read ``target``, or a new file."""
    name = os.fsencode(target.name)[:200].decode(errors="ignore")  # names have at most 255 bytes
    part = target.with_name(f".{name}.plm-{secrets.token_hex(4)}.part")
    mode = stat.S_IMODE(target.stat().st_mode) | 0o600 if target.exists() else 0o666
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o777))  # the kernel applies the umask
    return part


@functools.cache  # once in a process: a folder may have many files
def _remove_old_parts(folder: Path) -> None:
    """Remove temporary files that a killed process left more than a day ago."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _PART.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY:
                with suppress(OSError):
                    os.unlink(entry.path)


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


def existing_folder(text: str) -> Path | None:
    """Return the folder at a path, which may begin with ``~``; None if there is none, or if it cannot be a path."""
    try:
        folder = Path(text).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, a user that does not exist, half a character
        return None


def make_folder(folder: str | Path) -> Path:
    """Create a folder if it is absent, and return its path. Long work calls this before it begins.

    Raises:
        FileError: The folder cannot be created, no file can be written into it, or its path begins with ``~``.
    """
    folder = _refuse_home(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as e:
        raise FileError(f"cannot write to the folder {str(folder)[:1000]!r}: {e.strerror}") from e
    return folder
