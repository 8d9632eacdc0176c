"""Features on disk: one safetensors file per model, preprocessing and probe, shared by processes.

A file is written whole or not at all, and holds a digest of its contents. Whoever computes an entry holds its lock, and
others wait for it. A cache that cannot be written is said once and done without.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from parc.scoring import Features
from plm_core.utils.files import atomic_path, cache_dir

_log = logging.getLogger("parc")
FORMAT = "1"


class CorruptEntry(ValueError):
    """A file of the cache that is not what was written, or not for this probe."""


@dataclass(frozen=True)
class Key:
    """What features depend on."""

    weights: str
    transform: str
    dataset: str
    run: int

    @property
    def path(self) -> Path:
        """Where in the cache they lie."""
        return Path("features", self.weights[:32], self.transform[:16], f"{self.dataset[:16]}-{self.run}.safetensors")


@dataclass(frozen=True)
class Entry:
    """Features, and where they are from."""

    features: Features
    seconds: float
    """What it took to compute them, here or by whoever wrote them."""
    found: bool
    """Whether they were there already."""


class Cache:
    """Features by key.

    Args:
        root: The folder; ``plm_core.utils.files.cache_dir("parc")`` when None.
        enabled: False to neither read nor write.
    """

    def __init__(self, root: str | Path | None = None, enabled: bool = True) -> None:
        self.enabled = enabled
        self.root = Path(root) if root is not None else Path()
        self._said = threading.Event()
        if enabled and root is None:
            try:
                self.root = cache_dir("parc")
            except OSError as e:
                self.enabled = False
                self._give_up(e)

    def get(self, key: Key, labels: NDArray[np.int64], compute: Callable[[], Features]) -> Entry:
        """The entry of ``key``, computed by whichever process comes first.

        Args:
            key: What the features depend on.
            labels: Of the probe; kept in the entry, so that it can be used without the data set.
            compute: Called when there is no entry, or none that can be read.

        """
        if not self.enabled:
            return _timed(compute)
        path = self.root / key.path
        if (found := self._read(path, labels)) is not None:
            return found
        lock = self._lock(path)
        try:
            if (found := self._read(path, labels, quiet=True)) is not None:  # another process has just written it
                return found
            computed = _timed(compute)
            self._write(path, computed, labels)
            return computed
        finally:
            if lock is not None:
                lock.release()

    def _lock(self, path: Path) -> FileLock | None:
        lock = FileLock(path.with_suffix(".lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                _log.warning("another process computes %s; waiting for it", path)
                lock.acquire()
        except (OSError, NotImplementedError) as e:  # NotImplementedError: a file system without locks
            self._give_up(e)
            return None
        return lock

    def _read(self, path: Path, labels: NDArray[np.int64], quiet: bool = False) -> Entry | None:
        try:
            return read(path, labels)
        except FileNotFoundError:
            return None
        except (CorruptEntry, OSError) as e:
            if not quiet:
                _log.warning("cache entry %s cannot be used (%s); computing it again", path, e)
            return None

    def _write(self, path: Path, entry: Entry, labels: NDArray[np.int64]) -> None:
        try:
            for left in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed: the lock is ours
                left.unlink(missing_ok=True)
            write(path, entry, labels)
        except OSError as e:  # a FileError is one
            self._give_up(e)

    def _give_up(self, error: Exception) -> None:
        if not self._said.is_set():
            self._said.set()
            _log.warning("features are not kept, so nothing can be resumed: %s", error)


def _timed(compute: Callable[[], Features]) -> Entry:
    start = time.perf_counter()
    features = compute()
    return Entry(features, time.perf_counter() - start, found=False)


def read(path: Path, labels: NDArray[np.int64]) -> Entry:
    """Read and check an entry.

    Raises:
        FileNotFoundError: There is none.
        CorruptEntry: It is damaged, of another format, or of another probe.
    """
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as e:
        raise CorruptEntry(str(e)) from e
    if about.get("sha256") != _digest(tensors):
        raise CorruptEntry("its digest does not match")
    if not np.array_equal(tensors["y"], labels):
        raise CorruptEntry("its labels are others")
    return Entry(Features(tensors["features"], tensors.get("probs")), float(about["seconds"]), found=True)


def write(path: Path, entry: Entry, labels: NDArray[np.int64]) -> None:
    """Write an entry, whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    tensors = {"features": entry.features.features, "y": labels}
    if entry.features.probs is not None:
        tensors["probs"] = entry.features.probs
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    encoded = save(tensors, {"sha256": _digest(tensors), "seconds": repr(entry.seconds)})
    with atomic_path(path) as part:
        part.write_bytes(encoded)


def _digest(tensors: dict[str, NDArray[np.generic]]) -> str:
    whole = hashlib.sha256(f"{FORMAT}\n".encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        whole.update(np.ascontiguousarray(tensor).tobytes())
    return whole.hexdigest()
