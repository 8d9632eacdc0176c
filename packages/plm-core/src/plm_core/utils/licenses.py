"""Licences of weights that do not allow commercial use, announced before a download."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from plm_core.hookspecs import Model, Pretrained

_log = logging.getLogger("plm_core")
_announced: set[str] = set()
_NON_COMMERCIAL = re.compile(r"(^|-)nc($|-)", re.IGNORECASE)


def is_non_commercial(license: str) -> bool:
    """Return whether an SPDX identifier names a licence that forbids commercial use."""
    return bool(_NON_COMMERCIAL.search(license))


def announce_license(model: Model, weights: Pretrained | None) -> None:
    """Log once per repository, before any download, that weights are not for commercial use."""
    if weights and weights.repo and is_non_commercial(weights.license) and weights.repo not in _announced:
        _announced.add(weights.repo)
        _log.warning(
            "weights %s.%s (%s) are for non-commercial use: %s", model.name, weights.tag, weights.repo, weights.license
        )


def announce_repo(repo: str, models: Iterable[Model]) -> None:
    """Call `announce_license` for all declared weights of ``models`` that are in the repository ``repo``."""
    for model in models:
        for weights in model.pretrained:
            if weights.repo == repo:
                announce_license(model, weights)
