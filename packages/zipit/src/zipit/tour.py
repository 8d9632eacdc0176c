"""The stop of ZipIt! on ``plm tour``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import plm_core
from plm_core.tools.tour import Tour
from plm_core.utils import plots
from zipit.api import merge
from zipit.evaluation import accuracy, joined
from zipit.micro.shapes import NAMES, TASKS, scenes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALVES = (range(4), range(4, 8))
"""The shapes that each of the networks knows."""
UNTIL = "layer2.0.conv1"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "average": ("identity", {}),
    "permute": ("permute", {}),
    "zipit": ("zipit", {"a": 1.0, "b": 1.0}),
}
SEEN, HELD_OUT = 256, 400
"""Scenes without labels that the matching sees, and labelled ones for the scores."""

CODE = f"""import zipit

merged = zipit.merge([knows_four, knows_the_others], batches, until="{UNTIL}", a=1.0, b=1.0)
first, second = merged(images)  # one trunk, and the rest of each network as a head"""


@torch.no_grad()
def stop(tour: Tour) -> None:
    """Merge two networks that know different shapes, and show what each way leaves of what they knew."""
    names = [", ".join(shapes) for shapes in TASKS]
    tour.text(
        f"One small ResNet was trained to tell {names[0]} apart, and another, from other weights, {names[1]}. Neither "
        "has seen the shapes of the other. Their first layers become one trunk, without training: averaging weights "
        "mixes features that have nothing to do with each other, permuting them first finds partners, and ZipIt! also "
        "merges features within a network that are much alike."
    )
    tour.code(CODE)
    models: list[Any] = [plm_core.create_model(name, pretrained=True).eval() for name in NAMES]
    batches = scenes("train", SEEN)[0].split(64)
    images, labels = scenes("heldout", HELD_OUT)
    rows = [{"way": "both networks", **scores([model(images) for model in models], labels)}]
    for way, (method, options) in METHODS.items():
        merged = merge(models, batches, method, UNTIL, progress=False, **options)
        rows.append({"way": way, **scores(merged(images), labels)})
    tour.table(rows)
    tour.figure(_bars(rows), f"Accuracy on held-out scenes, with one trunk up to {UNTIL}.")
    tour.fact(
        "top-1 % of eight shapes, of both networks and zipped", f"{rows[0]['joint']:.0f} and {rows[-1]['joint']:.0f}"
    )


def scores(outputs: Sequence[Tensor], labels: Tensor) -> dict[str, float]:
    """Return the accuracies in % of two heads that know four shapes each: of all eight, and of each head's own."""
    found = accuracy(joined(outputs, HALVES), labels, HALVES)
    return {"joint": found.joint, "task 1": found.tasks[0], "task 2": found.tasks[1]}


def _bars(rows: Sequence[dict[str, Any]]) -> Figure:
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(6, 2.8), layout="constrained")
    ax = figure.subplots()
    for number, name in enumerate(("joint", "task 1", "task 2")):
        ax.bar([place + 0.27 * number for place in range(len(rows))], [row[name] for row in rows], 0.25, label=name)
    ax.set_xticks([place + 0.27 for place in range(len(rows))], [row["way"] for row in rows])
    ax.set_ylabel("top-1 %")
    ax.legend(ncols=3, frameon=False, loc="upper right")
    ax.set_ylim(0, 118)
    return figure
