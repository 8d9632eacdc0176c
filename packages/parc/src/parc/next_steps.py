"""The commands that come next: after a ranking a probe of the best models, and then a fine-tuning of the best one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parc.probing import Probing
    from parc.ranking import Ranking

MOST = 3
"""Number of models of a ranking to probe."""


def after_ranking(dataset: str, ranking: Ranking) -> str | None:
    """Return the line that names the next commands, or None if no pretrained model has a score."""
    first = ranking.methods[0]
    best = _trained([model for model in ranking.models if ranking.of(model)[first].score is not None])
    if not best:
        return None
    steps = [shlex.join(["plm", "probe", dataset, "--models", ",".join(best[:MOST])]), *_finetuning(dataset, best)]
    return f"next: {', or '.join(steps)}"


def after_probing(dataset: str, probing: Probing) -> str | None:
    """Return the line that names the next command, or None if no pretrained model can be trained."""
    best = _trained([model for model in probing.models if probing.of(model)[0].accuracy is not None])
    steps = _finetuning(dataset, best)
    return f"next: {steps[0]}" if steps else None


def _trained(models: Sequence[str]) -> list[str]:
    """Leave out models with random weights, since nothing is gained by a fine-tuning from these."""
    return [model for model in models if not model.startswith("random:")]


def _finetuning(dataset: str, best: Sequence[str]) -> list[str]:
    """Return the command that trains the best model, of those with timm's interface, which plm train needs."""
    models = [model for model in best if not model.lower().startswith(("torchvision:", "transformers:"))]
    if not models:
        return []
    folder = models[0].rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return [shlex.join(["plm", "train", "finetune", dataset, "--model", models[0], "--out", f"runs/{folder}"])]
