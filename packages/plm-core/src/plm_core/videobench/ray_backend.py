"""The answers of a model on a Ray cluster: each task is a batch, and each worker loads the model once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from plm_core.errors import PlmError
from plm_core.utils.ray_cluster import gpus_per_task, ray_cluster
from plm_core.utils.text import first_line
from plm_core.videobench.answering import Answer, Answerer, AnswererName, Question, answer_all, read_all

AHEAD = 2
"""Batches per worker that are sent before they are needed."""


@lru_cache(maxsize=1)
def _loaded(model: AnswererName) -> Answerer:
    return model.load()


def answer_on_ray(
    model: AnswererName, questions: Iterator[Question | Answer], batch_size: int, address: str
) -> Iterator[Answer]:
    """Yield the answers in the order in which they are finished.

    Args:
        model: The model, which workers load by its name. With the device ``auto``, a worker takes a GPU if the cluster
            has one.
        questions: The questions, whose videos the workers read.
        batch_size: Questions per batch.
        address: See `plm_core.utils.ray_cluster.ray_cluster`.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address.
        PlmError: A worker was lost, or failed for a reason that `AnswererName.load` gives.
    """
    with ray_cluster(address, "plm-core[ray]") as ray:
        gpus = gpus_per_task(ray, model.device)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(answer_questions)
        workers = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
        pending: list[Any] = []
        while True:
            while len(pending) < AHEAD * max(workers, 1):
                batch = list(islice(questions, batch_size))
                if not batch:
                    break
                pending.append(task.remote(model, batch))
            if not pending:
                return
            [done], pending = ray.wait(pending)
            yield from _result(ray, done)


def answer_questions(model: AnswererName, questions: Sequence[Question | Answer]) -> list[Answer] | PlmError:
    """Return the answers to a batch of questions, or the error. A worker runs this.

    Args:
        model: The model.
        questions: The questions.
    """
    try:
        return answer_all(_loaded(model), read_all(questions))
    except PlmError as e:
        return e


def _result(ray: Any, reference: Any) -> list[Answer]:
    try:
        result: list[Answer] | PlmError = ray.get(reference)
    except ray.exceptions.RayError as e:  # the worker died: it ran out of memory, or its machine was lost
        raise PlmError(f"a worker of Ray failed ({type(e).__name__}: {first_line(e)})") from e
    if isinstance(result, PlmError):
        raise result
    return result
