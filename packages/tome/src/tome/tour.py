"""Token Merging's stop on the tour."""

from __future__ import annotations

import copy
import statistics
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import plm_core
from plm_core import samples, shapes
from plm_core.tools.bench import interleaved
from plm_core.tools.tour import Tour
from tome.api import apply
from tome.micro.shapes import NAME, SIZE, scenes
from tome.pictures import groups, sheet
from tome.vit.tracing import trace

R, SHOWN = (0, 8, 16, 24), 20
HELD_OUT, TIMED, RUNS = 128, 16, 4
DPI = 110  # that of `Tour.figure`

CODE = f'''from tome import pictures

model = plm_core.create_model("{NAME}", pretrained=True).eval()
plm_core.apply(model, "tome", r={SHOWN})  # {SHOWN} tokens fewer after each block; other ViTs will do
pictures.groups(model, image).save("groups.png")'''


@torch.no_grad()
def merging(tour: Tour) -> None:
    """Which patches become one token, and what that does to speed and answers."""
    model: Any = plm_core.create_model(NAME, pretrained=True).eval()
    tour.text(
        f"{NAME} is a plain vision transformer of {sum(p.numel() for p in model.parameters()):,} parameters, trained "
        "without merging. Token Merging makes one token of the most similar pairs in each block: fewer tokens, the "
        "same weights. Patches of one token are painted in their mean colour, with a border around them."
    )
    tour.code(CODE)
    merged = apply(copy.deepcopy(model), SHOWN)
    images = [Image.fromarray(scene.image) for scene in shapes.Images("heldout", size=SIZE, count=2)]
    tour.figure(
        _at_its_pixels(sheet([groups(merged, image) for image in [*images, samples.photo()]], columns=1)),
        f"Two scenes and a photograph (danielbuechele, CC BY 2.0) at the {SIZE} pixels that the model sees, and what "
        f"merging {SHOWN} tokens in each block makes one.",
    )
    rows = _by_r(model)
    tour.table(rows)
    first, last = rows[0], rows[-1]
    tour.fact(f"r={R[-1]}, tokens left", f"{last['tokens left']} of {first['tokens left']}")
    tour.fact(f"r={R[-1]}, same answers", last["same answers"])


def _by_r(model: Any) -> list[dict[str, Any]]:
    """What merging costs and saves on held-out scenes."""
    held_out = scenes("heldout", HELD_OUT)
    contenders = {r: apply(copy.deepcopy(model), r) for r in R}
    answers = {r: contender(held_out.x).argmax(-1) for r, contender in contenders.items()}
    seconds = interleaved({str(r): partial(contenders[r], held_out.x[:TIMED]) for r in R}, RUNS)
    return [
        {
            "r": r,
            "tokens left": trace(contender, held_out.x[:1]).tokens[-1],
            "ms per image": round(1000 * statistics.median(seconds[str(r)]) / TIMED, 2),
            "same answers": f"{(answers[r] == answers[0]).float().mean():.1%}",
            "right": f"{(answers[r] == held_out.y).float().mean():.1%}",
        }
        for r, contender in contenders.items()
    ]


def _at_its_pixels(image: Image.Image) -> Figure:
    """A figure that shows each pixel of an image as one: borders of one pixel stay even."""
    figure = Figure(figsize=(image.width / DPI, image.height / DPI), dpi=DPI)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(np.asarray(image), interpolation="nearest")
    ax.set_axis_off()
    return figure
