"""Linear probes on every layer of the vision tower of a CLIP (the central claim of arXiv 2504.13181).

The paper finds the best features for tasks of language and space in the middle of a large network. This looks at a
small one, on the world of shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pe_encoder.experiments.probes import (
    accuracy,
    colour_of,
    draw,
    images_of,
    iou,
    labels,
    regions_of,
    segmentation,
    shape_of,
    shares,
)
from plm_core.models import input_of
from plm_core.shapes import COLOURS, SHAPES
from plm_core.shapes.scenes import Object, Scene
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN = 2000
HELD_OUT = 1000
MOST = 4
"""The most objects of a scene."""
TASKS = {
    "classification": "shape of one object, top-1 %",
    "counting": f"number of objects, 1 to {MOST}, top-1 %",
    "colour segmentation": "colours and background, mean IoU %",
    "shape segmentation": "shapes and background, mean IoU %",
}
SEGMENTED: Mapping[str, tuple[Callable[[Object], int], int]] = {
    "colour segmentation": (colour_of, 1 + len(COLOURS)),
    "shape segmentation": (shape_of, 1 + len(SHAPES)),
}
LINES = ("#4477aa", "#228833", "#aa3377", "#aa3377")
Split = tuple[Tensor, Tensor]


@torch.no_grad()
def measure(model: Any, train: int = TRAIN, heldout: int = HELD_OUT) -> list[dict[str, Any]]:
    """Score linear probes on the tokens of every layer.

    Args:
        model: A CLIP.
        train: Number of scenes that the probes are fitted to.
        heldout: Number of held-out scenes.

    Returns:
        Rows of ``layer``, from 1 on, and the score of each task in %. Classification and counting see the mean of the
        patches. The last row, ``layer`` "ceiling", has the scores of segmentations that know the share of every class
        in every patch.
    """
    tower, size = model.visual, input_of(model).size[1]
    single = [draw(split, n, size, (1, 1)) for split, n in (("train", train), ("heldout", heldout))]
    several = [draw(split, n, size, (1, MOST)) for split, n in (("train", train), ("heldout", heldout))]
    grid = tower.grid_of(images_of(single[0][:1]))
    shapes = [torch.tensor([shape_of(scene.objects[0]) - 1 for scene in part]) for part in single]
    numbers = [torch.tensor([len(scene.objects) - 1 for scene in part]) for part in several]
    regions = {task: [regions_of(part, number) for part in several] for task, (number, _) in SEGMENTED.items()}
    rows: list[dict[str, Any]] = []
    for layer in range(len(tower.blocks)):
        one, many = ([_patches(tower, part, layer) for part in parts] for parts in (single, several))
        scores = {
            "classification": accuracy(*_pairs([x.mean(1) for x in one], shapes), len(SHAPES)),
            "counting": accuracy(*_pairs([x.mean(1) for x in many], numbers), MOST),
        }
        for task, (_, classes) in SEGMENTED.items():
            scores[task] = segmentation(*_pairs(many, regions[task]), grid, classes)
        rows.append({"layer": layer + 1, **_percent(scores)})
    ceiling = {}
    for task, (_, classes) in SEGMENTED.items():
        heldout_regions = regions[task][1]
        known = labels(shares(heldout_regions, grid, classes), grid, heldout_regions.shape[1:])
        ceiling[task] = iou(known, heldout_regions, classes)
    rows.append({"layer": "ceiling", **_percent(ceiling)})
    return rows


def _percent(scores: Mapping[str, float]) -> dict[str, float]:
    return {task: round(100 * score, 1) for task, score in scores.items()}


def _pairs(features: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Split, Split]:
    """Return the features and the targets of both splits."""
    (train, heldout), (first, second) = features, targets
    return (train, first), (heldout, second)


def _patches(tower: Any, scenes: Sequence[Scene], layer: int) -> Tensor:
    """Return the patch tokens of a layer, [N, P, C]."""
    parts = images_of(scenes).split(250)
    return torch.cat([tower.forward_features(part, layer_idx=layer, strip_cls_token=True) for part in parts])


def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the scores by layer, one task beside the other."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(9.0, 2.4), layout="constrained")
    shown = [row for row in rows if row["layer"] != "ceiling"]
    for ax, (task, what), colour in zip(figure.subplots(1, len(TASKS)), TASKS.items(), LINES, strict=True):
        scores = [row[task] for row in shown]
        ax.plot([row["layer"] for row in shown], scores, "o-", color=colour)
        ax.set_title(f"{task}\n{what}", fontsize=7)
        ax.set_xlabel("layer", fontsize=8)
        ax.set_xticks([row["layer"] for row in shown])
        ax.set_ylim(0, 1.15 * max(scores))
        ax.spines[["top", "right"]].set_visible(False)
    return figure
