"""The paper's figure 2 on micro ViTs: accuracy by the number of heads, with the softmax and with linear attention."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hydra_attn.experiments.micro import CONFIG, DIM, data, fresh, remembered
from hydra_attn.heads import linear_attention
from hydra_attn.scaling import COLOURS, HYDRA, SOFTMAX, Row
from plm_core import blocks
from plm_core.blocks import BlockView
from plm_core.shapes import SHAPES
from plm_core.training.finetuning import accuracy, finetune
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINEAR = "linear attention"
HEADS = {SOFTMAX: (1, 3, 6, 12), LINEAR: (1, 3, 6, 12, 24, DIM)}
"""The numbers of heads. The softmax of more heads needs a map of T x T for each, so the memory runs out."""


@dataclass(frozen=True)
class Linear:
    """Linear attention as the change of a block's pieces, see `plm_core.blocks.alter`."""

    num_heads: int

    def __call__(self, view: BlockView) -> BlockView:
        """Return the view with linear attention."""
        return replace(view, attention=self._attend)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        assert bias is None
        assert not dropout
        queries, keys, values = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
        y = linear_attention(queries, keys, values, self.num_heads)
        return y.unflatten(2, (q.shape[1], -1)).transpose(1, 2)


def measure(seed: int, out: Path) -> list[dict[str, Any]]:
    """Train the models of one seed, or read their scores from ``out``.

    Returns:
        Rows of ``seed``, ``way`` ("softmax" or "linear attention"), ``heads`` and ``top1``, held-out, in %.
    """

    def train(way: str, num_heads: int) -> float:
        model = fresh(seed, num_heads if way == SOFTMAX else 1)
        if way == LINEAR:
            for view in blocks.view(model).blocks:
                blocks.alter(view, Linear(num_heads))
        finetune(model, data("train"), CONFIG, len(SHAPES), seed=seed)
        return accuracy(model, data("heldout"))

    rows = []
    for way, numbers in HEADS.items():
        for number in numbers:
            file = out / f"heads_{way.split()[0]}_{number}_{seed}.json"
            top1 = remembered(file, lambda way=way, number=number: train(way, number))  # type: ignore[misc]
            rows.append({"seed": seed, "way": way, "heads": number, "top1": top1})
    return rows


def plot(rows: Sequence[Row]) -> Figure:
    """Plot the accuracy by the number of heads: the mean of the seeds."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(4.4, 3.0), layout="constrained")
    ax = figure.subplots()
    for way, colour in ((SOFTMAX, COLOURS[SOFTMAX]), (LINEAR, COLOURS[HYDRA])):
        shown = [row for row in rows if row["way"] == way]
        numbers = sorted({row["heads"] for row in shown})
        means = [statistics.mean(row["top1"] for row in shown if row["heads"] == number) for number in numbers]
        ax.plot(numbers, means, "o-", color=colour, label=way)
    ax.set(xscale="log", xlabel=f"heads, of {DIM} features", ylabel="held-out top-1 in %")
    ax.set_xticks(HEADS[LINEAR], [str(number) for number in HEADS[LINEAR]])
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
