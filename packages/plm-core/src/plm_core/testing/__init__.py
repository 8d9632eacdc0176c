"""Test helpers for authors of plug-ins.

- ``conformance``: `check_model(name)` tests a registered model, and `check_blocks` a block adapter.
- ``interface``: the part of `check_model` about timm's interface.
- ``run_folders``: `check_run_folder(folder)` tests what a recipe of ``plm train`` leaves.
- ``distributions``: write temporary distributions, to test plug-ins.
- ``fixtures``: the pytest fixtures ``plm_registry``, ``hub_double`` and ``tiny_weights``, which pytest offers wherever
  plm-core is installed.
- ``goldens``: read the outputs, and the names of the tensors, of original implementations.
- ``hub_double``: a double of the Hugging Face Hub.
- ``hub_client``: settings of its client `huggingface_hub`.
- ``parallel``: `count_regions` counts the parallel regions of torch, each of which waits for a busy neighbour.
"""

from __future__ import annotations

from typing import Any

from plm_core.testing.distributions import write_distribution
from plm_core.testing.goldens import Golden, expand_manifest, goldens_in
from plm_core.testing.hub_client import offline
from plm_core.testing.hub_double import HubDouble

__all__ = [
    "Golden",
    "HubDouble",
    "check_blocks",
    "check_model",
    "check_run_folder",
    "count_regions",
    "expand_manifest",
    "goldens_in",
    "offline",
    "write_distribution",
]


def __getattr__(name: str) -> Any:
    if name in ("check_blocks", "check_model"):  # these import torch
        from plm_core.testing import conformance

        return getattr(conformance, name)
    if name == "count_regions":
        from plm_core.testing.parallel import count_regions

        return count_regions
    if name == "check_run_folder":
        from plm_core.testing.run_folders import check_run_folder

        return check_run_folder
    raise AttributeError(f"module 'plm_core.testing' has no attribute {name!r}")
