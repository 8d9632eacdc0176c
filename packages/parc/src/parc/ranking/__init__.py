"""Rank models by how well they suit a dataset.

    run.py            `rank` and its core, `rank_models`
    settings.py       the settings of a ranking
    probes.py         the few images or videos of a dataset that the models are run on
    views.py          what a model gets of an image or a video
    candidates.py     the models to rank: from patterns to names, from names to models
    extraction.py     features and class probabilities of a probe
    cache.py          features on disk
    evaluation.py     one model, from its weights to its scores
    outcomes.py       the scores of one model, and the rows that all outcomes make
    training_data.py  models that were trained on the very data
    results.py        the ranking
    report.py         a ranking as a table and as a picture
    ray_backend.py    the same work on a Ray cluster
    progress_bars.py  progress on the terminal

The names below are imported when they are first used, so that the command line can read the settings' defaults without
loading NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from parc.interrupted import Interrupted
    from parc.ranking.outcomes import RankedRow
    from parc.ranking.results import Ranking
    from parc.ranking.run import rank, rank_models
    from parc.ranking.settings import Settings

_LAZY = {
    "Interrupted": "parc.interrupted",
    "RankedRow": "parc.ranking.outcomes",
    "Ranking": "parc.ranking.results",
    "Settings": "parc.ranking.settings",
    "rank": "parc.ranking.run",
    "rank_models": "parc.ranking.run",
}

__all__ = ["Interrupted", "RankedRow", "Ranking", "Settings", "rank", "rank_models"]

__getattr__, __dir__ = attributes(__name__, "parc", _LAZY)
