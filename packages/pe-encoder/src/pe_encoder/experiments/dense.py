"""Where a CLIP finds texts in scenes of the world of shapes, by the way that its patches are embedded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_encoder import dense
from pe_encoder.experiments.probes import draw, images_of, iou, regions_of
from pe_encoder.zeroshot import embed_classes
from plm_core.models import input_of
from plm_core.shapes import COLOURS, SHAPES
from plm_core.shapes.scenes import Object, Scene

SCENES = 300
WINDOWS = (1, 3, 5)
TEMPLATE = "a photo of a {}"
THRESHOLDS = 40
"""Thresholds of the cosine that are tried, to tell objects from the background."""

Names = tuple[str, Sequence[str], Callable[[Object], int]]
KINDS: tuple[Names, ...] = (
    ("colours", tuple(f"{colour} {{}}" for colour in COLOURS), lambda thing: 1 + COLOURS.index(thing.colour)),
    ("shapes", SHAPES, lambda thing: 1 + SHAPES.index(thing.shape)),
)
"""What pixels are told apart by. A colour is named with every shape, and the embeddings are averaged."""


@torch.inference_mode()
def measure(model: Any, scenes: int = SCENES) -> list[dict[str, Any]]:
    """Score every way to embed patches.

    Args:
        model: A CLIP that knows the words of the world of shapes.
        scenes: Number of scenes, held-out ones, and as many of the training split to choose a threshold by.

    Returns:
        Rows of ``way``, ``window``, ``last`` and mean IoU in %: of ``colours`` and ``shapes`` over the pixels of
        objects, of ``objects`` by their own names, and of ``with background``, the colours and the background below
        a threshold.
    """
    size = input_of(model).size[1]
    parts = draw("train", scenes, size), draw("heldout", scenes, size)
    ways: list[tuple[str, dict[str, Any]]] = [("projection alone", {})]
    ways += [("pool", {"window": window, "last": "keep"}) for window in WINDOWS]
    ways += [("pool", {"window": dense.WINDOW, "last": last}) for last in dense.ATTENTIONS if last != "keep"]
    texts = {kind: _classifier(model, names) for kind, names, _ in KINDS}
    own = [embed_classes(model, [_name(thing) for thing in scene.objects], TEMPLATE) for scene in parts[1]]
    rows = []
    for way, options in ways:
        train, heldout = (_embed(model, images_of(part), way, options) for part in parts)
        row: dict[str, Any] = {"way": way, "window": 1, "last": "keep"} | options
        for kind, names, number in KINDS:
            inside = regions_of(parts[1], number)
            row[kind] = _foreground(_cosines(heldout, texts[kind], size), inside, len(names))
        cosines = [_cosines(x, texts["colours"], size) for x in (train, heldout)]
        row["with background"] = _with_background(cosines, [regions_of(part, KINDS[0][2]) for part in parts])
        row["objects"] = _objects(heldout, parts[1], own, size)
        rows.append({key: round(100 * x, 1) if isinstance(x, float) else x for key, x in row.items()})
    return rows


def _classifier(model: Any, names: Sequence[str]) -> Tensor:
    """Return the classifier of names. In place of ``{}`` is every shape."""
    weights = [
        embed_classes(model, list(dict.fromkeys(name.replace("{}", shape) for shape in SHAPES)), TEMPLATE)
        for name in names
    ]
    return F.normalize(torch.stack([weight.mean(1) for weight in weights], 1), dim=0)


def _name(thing: Object) -> str:
    return f"{thing.colour} {thing.shape}"


def _embed(model: Any, images: Tensor, way: str, options: dict[str, Any]) -> Tensor:
    """Return the embeddings of patches, [N, E, rows, columns], of length 1."""
    tower = model.visual
    if way == "pool":
        return F.normalize(dense.patch_embeddings(model, images, **options), dim=1)
    tokens = tower.norm(tower.forward_features(images, strip_cls_token=True))
    return F.normalize(tower.head(tokens), dim=-1).mT.unflatten(2, tower.grid_of(images))


def _cosines(embeddings: Tensor, weight: Tensor, size: int) -> Tensor:
    """Return the cosines of pixels and texts, [N, K, H, W]."""
    maps = torch.einsum("nerc,ek->nkrc", embeddings, weight)
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)


def _foreground(cosines: Tensor, regions: Tensor, classes: int) -> float:
    """Return the mean IoU over the pixels of objects, without the background as a choice."""
    inside = regions > 0
    return iou(cosines.argmax(1)[inside], regions[inside] - 1, classes)


def _with_background(cosines: Sequence[Tensor], regions: Sequence[Tensor]) -> float:
    """Return the mean IoU with all pixels below a threshold as background; the best one for the first of the parts."""
    classes = cosines[0].shape[1] + 1
    best, number = zip(*(x.max(1) for x in cosines), strict=True)
    low, high = best[0].min().item(), best[0].max().item()

    def score(part: int, threshold: float) -> float:
        return iou(torch.where(best[part] > threshold, number[part] + 1, 0), regions[part], classes)

    thresholds = torch.linspace(low, high, THRESHOLDS).tolist()
    return score(1, max(thresholds, key=lambda threshold: score(0, threshold)))


def _objects(embeddings: Tensor, scenes: Sequence[Scene], own: Sequence[Tensor], size: int) -> float:
    """Return the mean over scenes with several objects of the mean IoU of their objects, by their names."""
    scores = []
    for x, scene, weight in zip(embeddings, scenes, own, strict=True):
        if len(scene.objects) > 1:
            things = list(scene.objects)
            regions = regions_of([scene], lambda thing, things=things: 1 + things.index(thing))  # type: ignore[misc]
            scores.append(_foreground(_cosines(x[None], weight, size), regions, len(things)))
    return sum(scores) / len(scores)
