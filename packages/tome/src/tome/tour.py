"""The stop of Token Merging on ``plm tour``."""

from __future__ import annotations

import copy
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import plm_core
from plm_core import samples, shapes
from plm_core.tools.bench import interleaved
from plm_core.tools.tour import Tour
from plm_core.utils import plots
from plm_core.utils.text import millions
from tome.api import apply
from tome.micro.shapes import NAME, SIZE, scenes
from tome.pictures import contact_sheet, groups
from tome.vit.tracing import trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

R = (0, 8, 16, 24)
SHOWN_R = 20
HELD_OUT = 128
TIMED = 16
RUNS = 4
DPI = 110  # the resolution of `Tour.figure`

CODE = f'''from tome import pictures

model = plm_core.create_model("{NAME}", pretrained=True).eval()
plm_core.apply(model, "tome", r={SHOWN_R})  # {SHOWN_R} tokens fewer after each block; any ViT works
pictures.groups(model, image).save("groups.png")'''


@torch.no_grad()
def merging(tour: Tour) -> None:
    """Show which patches become one token, and what that does to speed and predictions."""
    model: Any = plm_core.create_model(NAME, pretrained=True).eval()
    tour.text(
        f"{NAME} is a plain vision transformer of {millions(sum(p.numel() for p in model.parameters()))} parameters, "
        "trained without merging. In each block, Token Merging turns the most similar pairs of tokens into one token "
        "each: there are fewer tokens, and the weights stay the same. Patches that became one token are painted in "
        "their mean colour, with a border around them."
    )
    tour.code(CODE)
    merged = apply(copy.deepcopy(model), SHOWN_R)
    images = [Image.fromarray(scene.image) for scene in shapes.Images("heldout", size=SIZE, count=2)]
    tour.figure(
        _pixel_figure(contact_sheet([groups(merged, image) for image in [*images, samples.photo()]], columns=1)),
        f"Two scenes and a photograph (danielbuechele, CC BY 2.0) at the model's resolution of {SIZE} pixels, and "
        f"their groups of patches when {SHOWN_R} tokens merge in each block.",
    )
    rows = _by_r(model)
    tour.table(rows)
    first, last = rows[0], rows[-1]
    tour.text(_comment(first["ms per image"], last["ms per image"]))
    tour.fact(f"r={R[-1]}, tokens left", f"{last['tokens left']} of {first['tokens left']}")
    tour.fact(f"r={R[-1]}, same predictions", last["same predictions"])


def _comment(plain: float, merged: float) -> str:
    """Say in words what merging the most tokens did to the time per image."""
    if merged < plain:
        return f"With r={R[-1]} an image takes {plain / merged:.2f} times less time. On larger models it saves more."
    return (
        f"With r={R[-1]} an image takes longer, not shorter: with so few and so narrow tokens, finding the most "
        "similar pairs costs more than it saves. On larger models merging saves time."
    )


def _by_r(model: Any) -> list[dict[str, Any]]:
    """Measure what merging costs and saves on held-out scenes, with one row for each r."""
    held_out = scenes("heldout", HELD_OUT)
    contenders = {r: apply(copy.deepcopy(model), r) for r in R}
    predictions = {r: contender(held_out.x).argmax(-1) for r, contender in contenders.items()}
    seconds = interleaved({str(r): partial(contenders[r], held_out.x[:TIMED]) for r in R}, RUNS)
    return [
        {
            "r": r,
            "tokens left": trace(contender, held_out.x[:1]).tokens[-1],
            "ms per image": 1000 * statistics.median(seconds[str(r)]) / TIMED,
            "same predictions": _percent(predictions[r] == predictions[0]),
            "correct": _percent(predictions[r] == held_out.y),
        }
        for r, contender in contenders.items()
    ]


def _percent(right: torch.Tensor) -> str:
    return f"{100 * right.float().mean():.1f} %"


def _pixel_figure(image: Image.Image) -> Figure:
    """Return a figure with one pixel for each pixel of an image, so that borders of one pixel stay even."""
    size = image.width / DPI, image.height / DPI
    figure = plots.figure("the tour", "plm-core[tour]", figsize=size, dpi=DPI)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(np.asarray(image), interpolation="nearest")
    ax.set_axis_off()
    return figure
