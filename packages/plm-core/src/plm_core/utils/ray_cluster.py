"""Ray clusters: the one of this machine, one at an address, or the one that this process uses already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plm_core.errors import InputError, MissingDependency
from plm_core.utils.text import first_line

LOCAL = "local"


@contextmanager
def ray_cluster(address: str, extra: str) -> Iterator[Any]:
    """Yield the module ``ray``, connected to a cluster. A connection that is made here ends with the block.

    Args:
        address: ``local`` for a cluster of this machine's cores that ends with the block, or an address that
            ``ray.init`` accepts: ``auto``, ``ray://host:port``. If Ray is initialised in this process already, its
            cluster is used.
        extra: What to install for Ray, such as "parc[ray]".

    Raises:
        MissingDependency: Ray is not installed.
        InputError: There is no cluster at that address.
    """
    ray = _import_ray(extra)
    started = not ray.is_initialized()
    if started:
        _connect(ray, address)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def gpus_per_task(ray: Any, device: str) -> int:
    """Return the number of GPUs that a task needs for a device: 1 for an accelerator if the cluster has any, else 0."""
    return 1 if device in ("auto", "cuda") and ray.cluster_resources().get("GPU") else 0


def _import_ray(extra: str) -> Any:
    # Ray reads both variables when it is imported. Under `uv run`, each worker would build an environment of its own.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as e:
        raise MissingDependency(f"Ray is not installed: install {extra}") from e
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet = {"include_dashboard": False, "configure_logging": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise InputError(f"ray {address!r} cannot be reached: {first_line(e)}") from e
