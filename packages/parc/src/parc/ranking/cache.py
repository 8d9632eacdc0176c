"""Features on disk: one safetensors file per model, preprocessing and probe, shared by processes.

A file is written completely or not at all, and holds a digest of its key and its contents. An entry that is damaged in
any way is computed again, and replaced. The process that computes an entry holds
its lock, and other processes wait for it. If the cache cannot be written, one warning says so and the ranking goes on
without it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
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
FORMAT = "2"


class CorruptEntry(ValueError):
    """A file of the cache is damaged, or belongs to another key or to other labels."""


@dataclass(frozen=True)
class Key:
    """Everything that features depend on: digests of the weights, the preprocessing and the probe, and the run."""

    weights: str
    preprocess: str
    dataset: str
    run: int

    @property
    def path(self) -> Path:
        """Path of the file, relative to the root of the cache."""
        return Path("features", self.weights[:32], self.preprocess[:16], f"{self.dataset[:16]}-{self.run}.safetensors")


@dataclass(frozen=True)
class CacheEntry:
    """Features and their cost."""

    features: Features
    seconds: float
    """Time it took to compute the features, in this process or in the one that wrote the entry."""
    cached: bool
    """Whether the features came from the cache."""


class Cache:
    """Features by key.

    Args:
        root: Folder of the cache; None for ``plm_core.utils.files.cache_dir("parc")``.
        enabled: False to neither read nor write.
    """

    def __init__(self, root: str | Path | None = None, enabled: bool = True) -> None:
        self.enabled = enabled
        self.root = Path(root) if root is not None else Path()
        self._warned = threading.Event()
        if enabled and root is None:
            try:
                self.root = cache_dir("parc")
            except OSError as e:
                self.enabled = False
                self._warn(e)

    def get(self, key: Key, labels: NDArray[np.int64], compute: Callable[[], Features]) -> CacheEntry:
        """Return the entry of a key. The first process that needs it computes it.

        Args:
            key: Everything that the features depend on.
            labels: Labels of the probe. They are stored too, so that the entry can be used without the dataset.
            compute: Called if there is no entry, or none that can be read.
        """
        if not self.enabled:
            return _computed(compute)
        path = self.root / key.path
        if (entry := self._read(key, labels)) is not None:
            return entry
        lock = self._lock(path)
        try:
            if (entry := self._read(key, labels, quiet=True)) is not None:  # another process has just written it
                return entry
            entry = _computed(compute)
            self._write(key, entry, labels)
            return entry
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
            self._warn(e)
            return None
        return lock

    def _read(self, key: Key, labels: NDArray[np.int64], quiet: bool = False) -> CacheEntry | None:
        path = self.root / key.path
        try:
            return read_entry(path, key, labels)
        except FileNotFoundError:
            return None
        except (CorruptEntry, OSError) as e:
            if not quiet:
                _log.warning("cache entry %s cannot be used (%s); computing it again", path, e)
            return None

    def _write(self, key: Key, entry: CacheEntry, labels: NDArray[np.int64]) -> None:
        path = self.root / key.path
        try:
            if path.is_dir() and not path.is_symlink():  # nothing of ours: a file cannot take its place
                shutil.rmtree(path)
            for part in path.parent.glob(f".{path.name}.*.part"):  # left by a killed process, since the lock is ours
                part.unlink(missing_ok=True)
            write_entry(path, key, entry, labels)
        except OSError as e:  # a FileError is one
            self._warn(e)

    def _warn(self, error: Exception) -> None:
        if not self._warned.is_set():
            self._warned.set()
            _log.warning("features are not kept, so nothing can be resumed: %s", error)


def _computed(compute: Callable[[], Features]) -> CacheEntry:
    start = time.perf_counter()
    features = compute()
    return CacheEntry(features, time.perf_counter() - start, cached=False)


def read_entry(path: Path, key: Key, labels: NDArray[np.int64]) -> CacheEntry:
    """Read and check an entry.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptEntry: The file is damaged, has another format, or belongs to another key or to other labels.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as e:
        raise CorruptEntry(str(e)) from e
    seconds = metadata.get("seconds", "")
    if metadata.get("sha256") != _digest(key, seconds, tensors):
        raise CorruptEntry("its digest does not match")
    if not np.array_equal(tensors["y"], labels):
        raise CorruptEntry("its labels are others")
    return CacheEntry(Features(tensors["features"], tensors.get("probs")), float(seconds), cached=True)


def write_entry(path: Path, key: Key, entry: CacheEntry, labels: NDArray[np.int64]) -> None:
    """Write an entry completely or not at all.

    Raises:
        FileError: The file cannot be written.
    """
    tensors = {"features": entry.features.features, "y": labels}
    if entry.features.probs is not None:
        tensors["probs"] = entry.features.probs
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    seconds = repr(float(entry.seconds))
    encoded = save(tensors, {"sha256": _digest(key, seconds, tensors), "seconds": seconds})
    with atomic_path(path) as part:
        part.write_bytes(encoded)


def _digest(key: Key, seconds: str, tensors: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(f"{FORMAT} {key} {seconds}\n".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
