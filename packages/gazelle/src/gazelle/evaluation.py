"""The published scores of a model on a dataset: those of GazeFollow, or those of VideoAttentionTarget (VAT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from gazelle.data import Annotations, SceneSamples, collate_scenes
from gazelle.data.annotations import OUTSIDE, Person
from gazelle.metrics import Gazefollow, Vat
from plm_core.utils.progress import track
from plm_core.utils.ranges import check_choice

BENCHMARKS = ("gazefollow", "vat")


@torch.inference_mode()
def evaluate(
    looker: nn.Module,
    annotations: Annotations,
    preprocess: Any,
    benchmark: str,
    batch_size: int = 32,
    num_workers: int = 0,
) -> dict[str, float]:
    """Return the scores of a model on a dataset, each the mean over people.

    Args:
        looker: A `gazelle.recipes.Looker`, or what wraps it, in eval mode.
        annotations: The pictures, and the people in them.
        preprocess: Function from a picture to what the model takes.
        benchmark: "gazefollow" for ``auc`` at the size of the picture, ``avg_l2`` and ``min_l2`` over annotators. "vat"
            for ``auc`` and ``l2`` of people who look inside, and ``inout_ap`` of all if the model tells who does.
            People of whom nobody has said where the target is do not count, and for "gazefollow" those do not whose
            target is outside.
        batch_size: Pictures per forward pass.
        num_workers: Processes that load pictures.

    Raises:
        InputError: The benchmark is unknown, nobody can be judged, or a picture cannot be read; the message names it.
    """
    check_choice("benchmark", benchmark, BENCHMARKS)
    device = next(looker.parameters()).device
    meter = Gazefollow() if benchmark == "gazefollow" else Vat()
    judged = (1,) if benchmark == "gazefollow" else (0, 1)
    data: Any = SceneSamples(annotations, preprocess)
    batches = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=collate_scenes)
    for batch in track(batches, "evaluating", len(batches)):
        heatmaps, scores = looker(batch["images"].to(device), batch["boxes"])
        known = [number for number, person in enumerate(batch["people"]) if person.inout in judged]
        if not known:
            continue
        people = [batch["people"][number] for number in known]
        heatmaps, scores = heatmaps[known], None if scores is None else scores[known]
        if isinstance(meter, Gazefollow):
            sizes = [batch["sizes"][number] for number in known]
            meter.update(heatmaps, *_annotators(people), *zip(*sizes, strict=True))
        else:
            x, y = zip(*(person.gaze[0] if person.inout else OUTSIDE for person in people), strict=True)
            meter.update(heatmaps, x, y, [person.inout for person in people], scores)
    return meter.compute()


def _annotators(people: Sequence[Person]) -> tuple[list[list[float]], list[list[float]]]:
    """Return the horizontal and the vertical positions by the annotators of each person."""
    return [[x for x, _ in p.gaze] for p in people], [[y for _, y in p.gaze] for p in people]


WORDS: Mapping[str, str] = {"auc": "AUC", "avg_l2": "avg L2", "min_l2": "min L2", "l2": "L2", "inout_ap": "in/out AP"}
"""What the scores are called in tables."""
