"""`embed_folder`: the embeddings of the images in a folder, in one file. An interrupted run is resumed."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core import packing
from plm_core.embeddings.images import Batch, embed_images
from plm_core.embeddings.loading import Job, Loaded, full_name, load
from plm_core.embeddings.partial import PartialResults, stamp
from plm_core.embeddings.ray_backend import embed_on_ray
from plm_core.embeddings.store import STORES, Embeddings, Provenance, Vectors, check_output
from plm_core.errors import InputError
from plm_core.prediction.files import Kind, find_files, select_files
from plm_core.transforms import applied_to
from plm_core.utils.arguments import DEVICE
from plm_core.utils.devices import DTYPES, default_workers
from plm_core.utils.progress import progress_bar

BATCH_SIZE = 64


@dataclass(frozen=True)
class Report:
    """What `embed_folder` has done.

    Attributes:
        embeddings: The table that was written.
        resumed: Number of its rows that an interrupted run had left.
        seconds: Time that the other rows took, without the loading of the model.
        unreadable: The paths of images that could not be read, below the folder, each with the error.
        packed: How many layers the transform ``packed`` makes faster, in words; empty without ``fast``, and on Ray.
    """

    embeddings: Embeddings
    resumed: int
    seconds: float
    unreadable: dict[str, str]
    packed: str = ""

    @property
    def images_per_second(self) -> float:
        """The number of images that were read and embedded in a second."""
        return (len(self.embeddings) - self.resumed + len(self.unreadable)) / max(self.seconds, 1e-9)


def embed_folder(
    folder: str | Path,
    model: str,
    out: str | Path,
    *,
    transforms: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    num_workers: int | None = None,
    device: str = DEVICE,
    dtype: str = "fp32",
    fast: bool = False,
    store: str = "float32",
    ray: str | None = None,
) -> Report:
    """Write the embeddings of all images in a folder, and in the folders below it, to a file.

    The rows are in the order in which `plm_core.prediction.find_files` finds the images, which is that of their names.
    Images that cannot be read have no row. The results so far are kept in a folder beside the file, ``out`` with the
    ending ``.partial``, which a later run with the same model and settings goes on from. Images that have changed since
    are computed again.

    Args:
        folder: The folder.
        model: Name of a model of images, with its weights; see `plm_core.create_model`.
        out: The file to write, which ends in ``.safetensors`` or ``.parquet``.
        transforms: Transforms to apply to the model, each as `plm_core.transforms.parse` reads it.
        batch_size: Images per forward pass.
        num_workers: Processes that read images while the model computes; with 0, this process reads them. None for 0 on
            the CPU, and else for up to 8. On Ray, each worker reads its own.
        device: ``auto`` for an accelerator if there is one, or a device as torch names it.
        dtype: Precision of the computation: fp32, or bf16 and fp16 by autocast.
        fast: Whether to apply the transform ``packed`` too, on the CPU.
        store: Type of the numbers in the file: float32 or float16.
        ray: Address of a Ray cluster that does the work, or ``local`` to start one on this machine. None for this
            process.

    Raises:
        InputError: An argument is not allowed, the folder has no images or none that can be read, another process
            writes the same file, or a value is too large for float16.
        NotSupported: The model takes no images, or has no pooled embedding.
        WeightsError: The model's weights, or the values that it gives, are not finite.
        MissingDependency: pyarrow (for parquet) or Ray is not installed.
        FileError: The file, or the results so far, cannot be written.
        PlmError: The model or a transform cannot be had; see `plm_core.create_model` and `plm_core.apply`.
    """
    _check(batch_size, num_workers, dtype, store)
    root = Path(folder)
    paths = _images_in(root, model)  # before the model, so that a bad folder fails at once
    out = check_output(out, paths)
    job = Job(full_name(model), tuple(transforms), device, dtype, fast)
    loaded = load(replace(job, device="cpu") if ray else job)
    provenance = Provenance(
        model=job.model,
        folder=str(root.resolve()),
        weights=loaded.weights,
        preprocessing=loaded.preprocessing,
        transforms=job.all_transforms,
        dtype=dtype,
    )
    with PartialResults(out, provenance.as_metadata() | {"store": store}) as partial:
        rows = _Rows(root, paths, store, partial)
        resumed = rows.restore()
        start = time.perf_counter()
        with (
            progress_bar("images", len(paths)) as advance,
            closing(_batches(rows.files_left, job, loaded, batch_size, num_workers, ray)) as batches,
        ):
            advance(resumed)
            for batch in batches:
                rows.add(batch)
                advance(len(batch.places) + len(batch.unreadable))
        seconds = time.perf_counter() - start
        table = rows.table(provenance)
        table.save(out)
    packed = packing.report(loaded.model) if packing.NAME in applied_to(loaded.model) and not ray else ""
    return Report(table, resumed, seconds, rows.unreadable, packed)


class _Rows:
    """The rows of the table as they come, by the place of the image in the list of all images."""

    def __init__(self, root: Path, paths: list[str], store: str, partial: PartialResults) -> None:
        self.paths = paths
        self.files = [root / path for path in paths]
        self.stamps = [stamp(file) for file in self.files]
        self.store = store
        self.partial = partial
        self.done = np.zeros(len(paths), bool)
        self.left: list[int] = list(range(len(paths)))
        self.unreadable: dict[str, str] = {}
        self.vectors: NDArray[Any] = np.zeros((0, 0), store)

    def restore(self) -> int:
        """Take the rows that an interrupted run has left, and return their number."""
        places = {path: place for place, path in enumerate(self.paths)}
        for path, vector in self.partial.restore(dict(zip(self.paths, self.stamps, strict=True))):
            self._put([places[path]], vector[None])
        self.left = np.flatnonzero(~self.done).tolist()
        return int(self.done.sum())

    @property
    def files_left(self) -> list[Path]:
        """The images that are still to be embedded."""
        return [self.files[place] for place in self.left]

    def add(self, batch: Batch) -> None:
        """Take the rows of a batch of ``files_left``."""
        self.unreadable |= {self.paths[self.left[place]]: error for place, error in batch.unreadable.items()}
        if not batch.places:
            return
        places = [self.left[place] for place in batch.places]
        vectors = self._stored(batch.vectors)
        self._put(places, vectors)
        self.partial.add([(self.paths[place], self.stamps[place]) for place in places], vectors)

    def table(self, provenance: Provenance) -> Embeddings:
        """Return the finished table."""
        if not self.done.any():
            error = next(iter(self.unreadable.values()))
            raise InputError(f"none of the {len(self.paths)} images of {provenance.folder!r} can be read: {error}")
        if self.done.all():
            return Embeddings(self.vectors, self.paths, provenance)
        kept = [path for path, done in zip(self.paths, self.done, strict=True) if done]
        return Embeddings(self.vectors[self.done], kept, provenance)

    def _put(self, places: list[int], vectors: Vectors) -> None:
        if not self.vectors.size:
            self.vectors = np.zeros((len(self.paths), vectors.shape[1]), self.store)
        self.vectors[places] = vectors
        self.done[places] = True

    def _stored(self, vectors: NDArray[np.float32]) -> Vectors:
        with np.errstate(over="ignore"):
            stored = vectors.astype(self.store, copy=False)
        if not np.isfinite(stored).all():
            largest = f"{np.abs(vectors).max():g}"
            raise InputError(
                f"store {self.store!r} holds values up to 65504, and the model gives {largest}: use float32"
            )
        return stored


def _batches(
    files: Sequence[Path], job: Job, loaded: Loaded, batch_size: int, num_workers: int | None, ray: str | None
) -> Generator[Batch, None, None]:
    if not files:
        return
    if ray:
        yield from embed_on_ray(files, job, loaded.weights, batch_size, ray)
        return
    device = next(loaded.model.parameters()).device
    workers = default_workers(device) if num_workers is None else num_workers
    yield from embed_images(loaded.model, files, batch_size=batch_size, num_workers=workers, dtype=job.dtype)


def _images_in(root: Path, model: str) -> list[str]:
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise InputError(f"folder {str(root)!r} {kind}; a folder of images is expected")
    return [file.name.as_posix() for file in select_files(find_files([root]), Kind.IMAGE, model)]


def _check(batch_size: int, num_workers: int | None, dtype: str, store: str) -> None:
    for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers or 0, 0)):
        if not isinstance(number, int) or number < least:
            raise InputError(f"{name} {number!r} is not allowed: a whole number from {least} is")
    for name, value, allowed in (("dtype", dtype, tuple(DTYPES)), ("store", store, STORES)):
        if value not in allowed:
            raise InputError(f"{name} {value!r} is not allowed: {', '.join(allowed)} are")
