"""Judge models by a simple classifier on their frozen features: the step between a ranking and a fine-tuning.

    run.py          `probe` and its core, `probe_models`
    settings.py     the settings of a probing
    classifiers.py  logistic regression and nearest neighbours
    validation.py   folds, few-shot draws, and the fits on them
    accuracy.py     accuracies with their intervals
    evaluation.py   one model, from its weights to its accuracies
    outcomes.py     the accuracies of one model, and the rows that all models make
    results.py      the probing
    report.py       a probing as a table and as a picture

Candidates, features and their cache are those of `parc.ranking`. The names below are imported when they are first used,
so that the command line can read the settings' defaults without loading NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from parc.probing.outcomes import ProbeRow
    from parc.probing.results import Probing
    from parc.probing.run import probe, probe_models
    from parc.probing.settings import ProbeSettings

_LAZY = {
    "ProbeRow": "parc.probing.outcomes",
    "ProbeSettings": "parc.probing.settings",
    "Probing": "parc.probing.results",
    "probe": "parc.probing.run",
    "probe_models": "parc.probing.run",
}

__all__ = ["ProbeRow", "ProbeSettings", "Probing", "probe", "probe_models"]

__getattr__, __dir__ = attributes(__name__, "parc", _LAZY)
