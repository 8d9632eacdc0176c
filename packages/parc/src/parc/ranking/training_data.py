"""Models that were trained on the very data that they are ranked or probed on, as far as their folders tell."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from parc.ranking.candidates import Candidate
from plm_core.datasets import Dataset

_log = logging.getLogger("parc")


def trained_on(candidates: Iterable[Candidate], data: Dataset) -> dict[str, int]:
    """Return the models that were trained on a dataset, each with the number of images or videos that it has seen.

    Only models in folders that ``plm train`` has left are known.

    Args:
        candidates: The models.
        data: The images or videos of the ranking or the probing.
    """
    from plm_core.sources.timm import folder_of
    from plm_core.tools import folders

    counts = {}
    for candidate in candidates:
        folder = folder_of(candidate.name) if candidate.pretrained else None
        if folder and (count := folders.trained_on(folder, data)):
            counts[str(candidate)] = count
    return counts


def log_trained_on(counts: Mapping[str, int], data: str) -> None:
    """Log a line about each model that was trained on the data.

    Args:
        counts: See `trained_on`.
        data: The data in words, such as "38 images".
    """
    for model, count in counts.items():
        _log.warning(
            "%s was trained on %d of the %s, as its training.json says, so it may look better than it is",
            model,
            count,
            data,
        )
