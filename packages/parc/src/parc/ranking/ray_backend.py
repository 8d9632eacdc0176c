"""Models of a bank fanned out to a Ray cluster: the same work, the same cache, the same result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from parc.ranking.candidates import Candidate, size_of
from parc.ranking.datasets import Probe
from parc.ranking.evaluation import Outcome, Settings, evaluate
from plm_core.errors import InputError, MissingDependency

LOCAL = "local"


def evaluate_all(
    candidates: Sequence[Candidate],
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None,
    address: str,
) -> Iterator[Outcome]:
    """Yield the outcome of each model as it is finished; the largest models are begun first.

    Args:
        candidates: The models.
        probes: Sent to the workers with the contents of their images, so that these need not see the files.
        settings: Each worker runs with these; a device ``auto`` takes a GPU where the cluster has one.
        references: As for `evaluate`.
        address: ``local`` for a cluster of this machine's cores that ends with the ranking, or as for ``ray.init``:
            ``auto``, ``ray://host:port``. If Ray is initialised in this process already, that cluster is used.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray, address)
    try:
        gpus = 1 if settings.device in ("auto", "cuda") and ray.cluster_resources().get("GPU") else 0
        work = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(evaluate)
        shared = ray.put([probe.packed() for probe in probes])
        alike = ray.put(replace(settings, workers=settings.workers or 0))
        order = sorted(candidates, key=size_of, reverse=True)
        waiting = {work.remote(candidate, shared, alike, references): candidate for candidate in order}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            candidate = waiting.pop(done[0])
            yield _outcome(ray, done[0], candidate)
    finally:
        if started:
            ray.shutdown()


def _outcome(ray: Any, reference: Any, candidate: Candidate) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as e:  # the worker died: out of memory, or its machine was lost
        return Outcome(str(candidate), error=f"{type(e).__name__}: {str(e).strip().splitlines()[0]}")


def _ray() -> Any:
    # Both are read when ray is imported. Under `uv run` its workers would each build an environment of their own.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as e:
        raise MissingDependency("Ray is not installed: install parc[ray]") from e
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet = {"include_dashboard": False, "configure_logging": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise InputError(f"ray {address!r} cannot be reached: {str(e).strip().splitlines()[0]}") from e
