"""Evaluates models on a Ray cluster: the same work as in this process, with the same cache and the same result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from parc.ranking.candidates import Candidate, size_of
from parc.ranking.evaluation import evaluate
from parc.ranking.outcomes import Outcome
from parc.ranking.probes import Probe
from parc.ranking.settings import Settings
from plm_core.utils.ray_cluster import gpus_per_task, ray_cluster
from plm_core.utils.text import first_line


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
        address: See `plm_core.utils.ray_cluster.ray_cluster`.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address.
    """
    with ray_cluster(address, "parc[ray]") as ray:
        gpus = gpus_per_task(ray, settings.device)
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


def _outcome(ray: Any, reference: Any, candidate: Candidate) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as e:  # the worker died: it ran out of memory, or its machine was lost
        return Outcome(str(candidate), error=f"{type(e).__name__}: {first_line(e)}")
