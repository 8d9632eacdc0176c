"""Evaluates models on a Ray cluster: the same work as in this process, with the same cache and the same result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from parc.ranking.candidates import Candidate, size_of
from parc.ranking.evaluation import evaluate
from parc.ranking.outcomes import Outcome
from parc.ranking.probes import Probe
from parc.ranking.settings import Settings
from plm_core.errors import InputError, MissingDependency
from plm_core.utils.text import first_line

LOCAL = "local"


def evaluate_on_ray(
    candidates: Sequence[Candidate],
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None,
    address: str,
) -> Iterator[Outcome]:
    """Yield the outcome of each model when it is finished. The largest models start first.

    Args:
        candidates: The models.
        probes: Sent to the workers together with the contents of their files, so a worker need not see the files.
        settings: The settings of the ranking. With the device ``auto``, a worker takes a GPU if the cluster has one.
        references: See `parc.ranking.evaluation.evaluate`.
        address: ``local`` for a cluster of this machine's cores that ends with the ranking, or an address that
            ``ray.init`` accepts: ``auto``, ``ray://host:port``. If Ray is initialised in this process already, its
            cluster is used.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address.
    """
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray, address)
    try:
        gpus = 1 if settings.device in ("auto", "cuda") and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(evaluate)
        shared_probes = ray.put([probe.packed() for probe in probes])
        shared_settings = ray.put(replace(settings, num_workers=settings.num_workers or 0))
        largest_first = sorted(candidates, key=size_of, reverse=True)
        pending = {
            task.remote(candidate, shared_probes, shared_settings, references): candidate for candidate in largest_first
        }
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            candidate = pending.pop(done[0])
            yield _outcome(ray, done[0], candidate)
    finally:
        if started:
            ray.shutdown()


def _outcome(ray: Any, reference: Any, candidate: Candidate) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as e:  # the worker died: it ran out of memory, or its machine was lost
        return Outcome(str(candidate), error=f"{type(e).__name__}: {first_line(e)}")


def _import_ray() -> Any:
    # Ray reads both variables when it is imported. Under `uv run`, each worker would build an environment of its own.
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
        raise InputError(f"ray {address!r} cannot be reached: {first_line(e)}") from e
