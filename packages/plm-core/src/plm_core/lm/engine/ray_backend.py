"""The work on a Ray cluster: each task is a few images or a video, and each worker loads its models once."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from plm_core.errors import InputError, PlmError
from plm_core.lm.engine.journal import Record
from plm_core.lm.engine.making import Engine, Source, work
from plm_core.utils.ray_cluster import gpus_per_task, ray_cluster
from plm_core.utils.text import describe, first_line

AHEAD = 2
"""Tasks per worker that are sent before they are needed."""


@lru_cache(maxsize=1)
def _engine(pickled: bytes) -> Engine:
    engine: Engine = pickle.loads(pickled)
    return engine


def work_on_ray(
    engine: Engine, tasks: Iterator[Sequence[Source]], address: str
) -> Generator[tuple[int, list[Record]], None, None]:
    """Yield the number of files of each task and its records, when it is finished.

    Args:
        engine: Who does the work. It is sent to the workers, which load the models by their names.
        tasks: Images, or one video each. The workers read the files at the same paths.
        address: See `plm_core.utils.ray_cluster.ray_cluster`.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address, or a captioner or writer cannot be sent.
        PlmError: A worker was lost, or failed for another reason that `work` gives.
    """
    with ray_cluster(address, "plm-core[ray]") as ray:
        pickled = _pickled(ray, engine)
        gpus = max(gpus_per_task(ray, device) for device in _devices(engine))
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(work_on_task)
        workers = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
        pending: dict[Any, int] = {}
        while True:
            for sources in islice(tasks, AHEAD * max(workers, 1) - len(pending)):
                pending[task.remote(pickled, list(sources))] = len(sources)
            if not pending:
                return
            [done], _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(done), _result(ray, done)


def work_on_task(pickled: bytes, sources: Sequence[Source]) -> list[Record] | PlmError:
    """Return the records of a task, or the error. A worker runs this.

    Args:
        pickled: The engine.
        sources: Images, or one video.
    """
    try:
        return list(work(_engine(pickled), sources))
    except PlmError as e:
        return e


def _pickled(ray: Any, engine: Engine) -> bytes:
    try:
        pickled: bytes = ray.cloudpickle.dumps(engine)
    except InputError:
        raise
    except Exception as e:  # an object of a user may raise anything
        raise InputError(f"a captioner or writer cannot be sent to the workers of Ray: {describe(e)}") from e
    return pickled


def _devices(engine: Engine) -> list[str]:
    """Return the devices of the models that workers load."""
    workers = (engine.captioner, engine.video_captioner, engine.writer)
    return [getattr(getattr(worker, "__self__", worker), "device", "cpu") for worker in workers]


def _result(ray: Any, reference: Any) -> list[Record]:
    try:
        result: list[Record] | PlmError = ray.get(reference)
    except ray.exceptions.RayError as e:  # the worker died: it ran out of memory, or its machine was lost
        raise PlmError(f"a worker of Ray failed ({type(e).__name__}: {first_line(e)})") from e
    if isinstance(result, PlmError):
        raise result
    return result
