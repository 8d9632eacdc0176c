"""The cost of merging in the shipped micro model: accuracy by r, without training and after finetuning with merging."""

from __future__ import annotations

import copy
from dataclasses import replace

import plm_core
from plm_core.shapes import SHAPES
from plm_core.training.finetuning import accuracy
from tome.api import applied
from tome.finetuning import MergedFinetuneConfig, finetune
from tome.micro.shapes import CONFIG, HELD_OUT, NAME, TRAIN, scenes
from tome.vit.tracing import trace

R = (0, 4, 8, 12, 16, 20, 24, 28, 32)
FINETUNED_R = (16, 24, 32)
FINETUNE_CONFIG = replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=2, lr=2e-4, warmup_epochs=0.2))


def measure(seed: int = 0) -> list[dict[str, float]]:
    """Measure the held-out top-1 accuracy of the shipped model for each r.

    Args:
        seed: Random seed of the finetuning.

    Returns:
        One row for each r of `R`, with the tokens left and the accuracy in % without training, without proportional
        attention, and, for the r of `FINETUNED_R` only, after finetuning while tokens merge.
    """
    held_out, data = scenes("heldout", HELD_OUT), scenes("train", TRAIN)
    model = plm_core.create_model(NAME, pretrained=True).eval()
    rows = []
    for r in R:
        row: dict[str, float] = {"r": r}
        for name, prop_attn in (("off the shelf", True), ("without proportional attention", False)):
            with applied(model, r, prop_attn=prop_attn):
                row[name] = accuracy(model, held_out, batch_size=250)
                row["tokens"] = trace(model, held_out.x[:1]).tokens[-1]
        if r in FINETUNED_R:
            finetuned = copy.deepcopy(model)
            finetune(finetuned, data, MergedFinetuneConfig(**vars(FINETUNE_CONFIG), r=r), len(SHAPES), seed=seed)
            row["finetuned while merging"] = accuracy(finetuned, held_out, batch_size=250)
        rows.append(row)
    return rows
