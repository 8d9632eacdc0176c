"""The checkpoints of a training: written beside and renamed, and trusted only if each file is as it was written."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from plm_core.errors import FileError, InputError
from plm_core.utils.files import make_folder, write_text
from plm_core.utils.progress import main_process
from plm_core.utils.text import first_line

MANIFEST = "manifest.json"
"""The file of a checkpoint that holds the sizes and digests of the others."""
LOCK = ".lock"
"""The file in the folder of a training that is locked while the training runs."""

_log = logging.getLogger(__name__)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest checkpoint in a folder that is whole, or None. A warning says which newer ones are damaged.

    A checkpoint is whole if each file has the size and the SHA-256 digest with which it was written.
    """
    for checkpoint in reversed(_checkpoints(Path(folder))):
        fault = _damage(checkpoint)
        if fault is None:
            return checkpoint
        if main_process():
            _log.warning("%s is skipped: %s", checkpoint, fault)
    return None


def checkpoint_to_resume(folder: Path, max_steps: int | None) -> Path | None:
    """Return the newest checkpoint in a folder that is whole, or None if the folder has no checkpoints.

    Raises:
        InputError: All checkpoints are damaged, or the one to resume is not before ``max_steps``.
    """
    newest = newest_checkpoint(folder)
    present = _checkpoints(folder)
    if newest is None and present:
        raise InputError(
            f"out {str(folder)!r} has no checkpoint that is whole ({present[-1].name}: {_damage(present[-1])}), so it "
            "cannot be resumed: choose another folder, or remove its checkpoints"
        )
    if newest is None and main_process():
        _log.warning("nothing to resume: %s has no checkpoint, so the training starts from the beginning", folder)
    if newest is not None and max_steps is not None and _step(newest) >= max_steps:
        raise InputError(f"max_steps {max_steps} is not allowed: more than {_step(newest)}, the steps taken so far, is")
    return newest


class CheckpointWriter:
    """The place where a training writes its checkpoints. The last two are kept.

    A checkpoint is written into the folder ``part``. It gets its manifest and its name when it is complete.

    Args:
        folder: The folder of the training.
        resumed: The checkpoint that the training goes on from. It is kept until there are two newer ones.
    """

    def __init__(self, folder: Path, resumed: Path | None = None) -> None:
        self.folder = folder
        self.part = folder / ".checkpoint.part"
        self.last = resumed
        if main_process():  # a killed training may have left a part, or more than two checkpoints
            self.discard()
            older = [path for path in _checkpoints(folder) if resumed and _step(path) < _step(resumed)]
            _remove(older[:-1])

    def seal(self) -> None:
        """Make the checkpoint in ``part`` one of the folder, and remove all but this one and the one before.

        Everything is on the disk before the checkpoint gets its name.
        """
        (part,) = self.part.iterdir()
        manifest = {}
        for path in sorted(path for path in part.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            manifest[path.relative_to(part).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
        write_text(part / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        for folder in (part, *(path for path in part.rglob("*") if path.is_dir())):
            _sync(folder)
        sealed = self.folder / part.name
        if sealed.exists():  # a damaged one, which the training was not resumed from
            shutil.rmtree(sealed)
        part.rename(sealed)
        _sync(self.folder)
        _remove(path for path in _checkpoints(self.folder) if path not in (sealed, self.last))
        self.last = sealed

    def discard(self) -> None:
        """Remove what is left of a checkpoint that is not complete."""
        shutil.rmtree(self.part, ignore_errors=True)

    def failure(self, error: Exception, size: int) -> FileError:
        """Return the error that says why a checkpoint cannot be written.

        Args:
            error: What was raised. torch's says nothing of a full disk.
            size: Bytes that the largest file of a checkpoint may have.
        """
        why = getattr(error, "strerror", None)
        if why is None and hasattr(os, "posix_fallocate"):
            try:
                with tempfile.TemporaryFile(dir=self.folder) as probe:
                    os.posix_fallocate(probe.fileno(), 0, size)
            except OSError as e:
                why = e.strerror
        return FileError(f"cannot write a checkpoint to {str(self.folder)!r}: {why or first_line(error)}")


@contextmanager
def run_folder(out: Path | None, resume: bool) -> Iterator[Path]:
    """Yield the folder of a training: ``out``, which is created if it is absent, or for None a temporary folder.

    Raises:
        InputError: ``out`` has checkpoints, and ``resume`` is False; or another training uses it.
        FileError: The folder cannot be created or written to.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    with _locked(make_folder(out)):
        if not resume and _checkpoints(out):  # a later resume could not tell the two trainings apart
            raise InputError(
                f"out {str(out)!r} has checkpoints of an earlier training: go on with it (resume=True, or --resume) "
                "or choose another folder"
            )
        yield out


def check_not_in_use(out: Path) -> None:
    """Check that no training uses a folder at this moment.

    Raises:
        InputError: One does.
    """
    if (out / LOCK).exists():
        with _locked(out):
            pass


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock a folder for one training. The system unlocks it when the process ends, in whatever way."""
    if not main_process():
        yield
        return
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"out {str(out)!r} is in use by another training: wait for it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as e:  # a file system without locks
        _log.debug("%s is not locked: %s", out, e)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                (out / LOCK).unlink()
            lock.release()


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, whole or not, the newest last."""
    return sorted((path for path in folder.glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])), key=_step)


def _remove(checkpoints: Iterable[Path]) -> None:
    for checkpoint in checkpoints:
        shutil.rmtree(checkpoint, ignore_errors=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def _damage(checkpoint: Path) -> str | None:
    """Return in words how a checkpoint differs from what was written, or None if it does not."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        expected = [(str(name), int(entry["size"]), entry["sha256"]) for name, entry in manifest.items()]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    if not expected:
        return f"{MANIFEST} is empty"
    for name, size, digest in expected:
        try:
            with open(checkpoint / name, "rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    return f"{name} has {found} bytes instead of {size}"
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} is not as it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as e:
            return f"{name} cannot be read: {first_line(e)}"
    return None


def _sync(folder: Path) -> None:
    """Have the system write the names in a folder to the disk, where a folder can be opened for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
