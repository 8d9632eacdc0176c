"""The embeddings of image files on a Ray cluster: each task is a batch, and each worker loads the model once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from plm_core.embeddings.images import Batch, embed_dataset
from plm_core.embeddings.loading import Job, load
from plm_core.errors import PlmError, WeightsError
from plm_core.models import transform_for
from plm_core.prediction.reading import ImageFiles
from plm_core.utils.ray_cluster import gpus_per_task, ray_cluster
from plm_core.utils.text import first_line

AHEAD = 2
"""Batches per worker that are sent before they are needed."""

_loaded = lru_cache(maxsize=1)(load)


def embed_on_ray(files: Sequence[Path], job: Job, weights: str, batch_size: int, address: str) -> Iterator[Batch]:
    """Yield the embeddings of each batch of files when it is finished, in any order.

    Args:
        files: The image files. Their contents are sent, so a worker need not see them.
        job: The model, which workers load by its name. With the device ``auto``, a worker takes a GPU if the cluster
            has one.
        weights: Digest of the model's weights here.
        batch_size: Images per batch.
        address: See `plm_core.utils.ray_cluster.ray_cluster`.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address.
        WeightsError: A worker has other weights by the name of the model.
        PlmError: A worker was lost, or failed for another reason that `embed_images` and `load` give.
    """
    with ray_cluster(address, "plm-core[ray]") as ray:
        gpus = gpus_per_task(ray, job.device)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(embed_batch)
        workers = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
        starts = iter(range(0, len(files), batch_size))
        pending: dict[Any, int] = {}
        while True:
            for start in islice(starts, AHEAD * max(workers, 1) - len(pending)):
                part = list(files[start : start + batch_size])
                pending[task.remote(job, weights, part, [_contents(file) for file in part])] = start
            if not pending:
                return
            [done], _ = ray.wait(list(pending), num_returns=1)
            yield _shifted(_result(ray, done), pending.pop(done))


def embed_batch(job: Job, weights: str, files: list[Path], contents: list[bytes | None]) -> Batch | PlmError:
    """Return the embeddings of one batch of images, or the error. A worker runs this.

    Args:
        job: The model.
        weights: The digest that its weights must have.
        files: The image files.
        contents: Their contents, None for one that is to be read here.
    """
    try:
        loaded = _loaded(job)
        if loaded.weights != weights:
            raise WeightsError(f"a worker of Ray has other weights of model {job.model!r} than this machine")
        images = ImageFiles(files, transform_for(loaded.model), contents)
        [batch] = embed_dataset(loaded.model, images, len(files), 0, job.dtype)
        return batch
    except PlmError as e:
        return e


def _contents(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None  # a worker says why, or can read it


def _result(ray: Any, reference: Any) -> Batch:
    try:
        result = ray.get(reference)
    except ray.exceptions.RayError as e:  # the worker died: it ran out of memory, or its machine was lost
        raise PlmError(f"a worker of Ray failed ({type(e).__name__}: {first_line(e)})") from e
    if isinstance(result, PlmError):
        raise result
    return result


def _shifted(batch: Batch, start: int) -> Batch:
    return replace(
        batch,
        places=[start + place for place in batch.places],
        unreadable={start + place: error for place, error in batch.unreadable.items()},
    )
