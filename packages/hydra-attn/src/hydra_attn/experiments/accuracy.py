"""What Hydra costs in accuracy, by the number of layers with it, trained from scratch and distilled.

The softmax model of a seed is the teacher of that seed. Distillation starts from its weights and takes half as many
epochs. The softmax is also trained twice as long, since it learns more slowly from few images.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from hydra_attn.experiments.micro import CONFIG, DEPTH, DISTILL, data, fresh, remembered
from hydra_attn.finetuning import distill, finetune
from hydra_attn.scaling import COLOURS, HYDRA, SOFTMAX, Row
from plm_core import weights
from plm_core.shapes import SHAPES
from plm_core.training.finetuning import accuracy
from plm_core.training.finetuning import finetune as plain_finetune
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = tuple(sorted({2, DEPTH // 2, DEPTH}))
"""The last two, half and all."""
SCRATCH, DISTILLED, LONGER = "from scratch", "distilled", "twice as long"


def measure(seed: int, out: Path) -> list[dict[str, Any]]:
    """Train the models of one seed, or read their scores from ``out``.

    Returns:
        Rows of ``seed``, ``layers`` (the last ones, with Hydra), ``way`` ("from scratch", "distilled" or "twice as
        long") and ``top1``, held-out, in %. No layers is the softmax.
    """
    teacher_file = out / f"teacher_{seed}.safetensors"

    def softmax() -> float:
        model = fresh(seed)
        plain_finetune(model, data("train"), CONFIG, len(SHAPES), seed=seed)
        weights.save(model, teacher_file)
        return accuracy(model, data("heldout"))

    def from_scratch(layers: int) -> float:
        model = fresh(seed)
        finetune(model, data("train"), replace(CONFIG, layers=layers), len(SHAPES), seed=seed)
        return accuracy(model, data("heldout"))

    def distilled(layers: int) -> float:
        model: nn.Module = fresh(seed)
        weights.load(model, weights.read(teacher_file))
        distill(model, data("train"), replace(DISTILL, layers=layers), len(SHAPES), seed=seed)
        return accuracy(model, data("heldout"))

    def longer() -> float:
        model = fresh(seed)
        recipe = replace(CONFIG.recipe, epochs=2 * CONFIG.recipe.epochs)
        plain_finetune(model, data("train"), replace(CONFIG, recipe=recipe), len(SHAPES), seed=seed)
        return accuracy(model, data("heldout"))

    rows = [
        {"seed": seed, "layers": 0, "way": way, "top1": remembered(out / f"{name}_{seed}.json", train)}
        for way, name, train in ((SCRATCH, "softmax", softmax), (LONGER, "longer", longer))
    ]
    for way, train_layers in ((SCRATCH, from_scratch), (DISTILLED, distilled)):
        for layers in LAYERS:
            file = out / f"{way.replace(' ', '_')}_{layers}_{seed}.json"
            top1 = remembered(file, lambda train=train_layers, layers=layers: train(layers))  # type: ignore[misc]
            rows.append({"seed": seed, "layers": layers, "way": way, "top1": top1})
    return rows


def plot(rows: Sequence[Row]) -> Figure:
    """Plot the accuracy by the number of layers with Hydra: the mean of the seeds, and each seed as a dot."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(4.4, 3.0), layout="constrained")
    ax = figure.subplots()
    for way, style in ((SCRATCH, "-"), (LONGER, ":")):
        softmax = statistics.mean(row["top1"] for row in rows if row["way"] == way and not row["layers"])
        ax.axhline(softmax, color=COLOURS[SOFTMAX], linestyle=style, linewidth=1, label=f"softmax, {way}")
    for way, colour in ((SCRATCH, COLOURS[HYDRA]), (DISTILLED, "#4477aa")):
        shown = [row for row in rows if row["way"] == way and row["layers"]]
        layers = sorted({row["layers"] for row in shown})
        means = [statistics.mean(row["top1"] for row in shown if row["layers"] == number) for number in layers]
        ax.plot(layers, means, color=colour, label=f"Hydra, {way}")
        ax.plot([row["layers"] for row in shown], [row["top1"] for row in shown], ".", color=colour)
    ax.set(xlabel=f"last layers with Hydra, of {DEPTH}", ylabel="held-out top-1 in %", xticks=LAYERS)
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
