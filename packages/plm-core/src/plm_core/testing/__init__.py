"""For authors of plug-ins: the conformance check, the double of the Hugging Face Hub, throw-away distributions.

The pytest fixtures ``plm_registry``, ``hub_double`` and ``tiny_weights`` are there wherever plm-core is installed;
``check_model(name)`` is the test of a registered model.
"""

from __future__ import annotations

from typing import Any

from plm_core.testing.distributions import write_distribution
from plm_core.testing.hub_client import offline
from plm_core.testing.hub_double import HubDouble

__all__ = ["HubDouble", "check_blocks", "check_model", "offline", "write_distribution"]


def __getattr__(name: str) -> Any:
    if name in ("check_blocks", "check_model"):  # these import torch
        from plm_core.testing import conformance

        return getattr(conformance, name)
    raise AttributeError(f"module 'plm_core.testing' has no attribute {name!r}")
