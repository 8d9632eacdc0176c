"""The measurement of how much masked pretraining helps.

    python -m hiera.experiments.pretraining --out DIR      # the table and the plot of the README

The same model is trained from scratch and finetuned after masked pretraining, for the same number of epochs, on grey
scenes of one large shape, of which few are labelled. `hiera.micro.shapes` has the model, the data and both trainings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera.experiments.command import Rows, run
from hiera.micro.shapes import HELD_OUT, UNLABELLED, finetuned, masked_autoencoder, pretrained, scenes
from plm_core.shapes import SHAPES
from plm_core.training.finetuning import accuracy
from plm_core.training.micro import InMemory
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCRATCH = "from scratch"
PRETRAINED = "pretrained"
LABELLED = (250, 500, 1000)  # numbers of labelled scenes


def measure(seeds: Sequence[int]) -> Rows:
    """Measure held-out top-1 in % with and without pretraining: one row per seed and number of labelled scenes."""
    x, y = scenes("train", UNLABELLED)
    held_out = InMemory(*scenes("heldout", HELD_OUT))
    rows: list[dict[str, float]] = []
    for seed in seeds:
        starts = {SCRATCH: masked_autoencoder(seed), PRETRAINED: pretrained(x, seed)}
        for count in LABELLED:
            top1 = {
                name: accuracy(finetuned(mae, x[:count], y[:count], seed), held_out, batch_size=250)
                for name, mae in starts.items()
            }
            rows.append({"seed": seed, "labelled": count, **top1})
    return rows


def plot(rows: Rows) -> Figure:
    """Plot accuracy by the number of labelled scenes, with a line for each seed."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(4.8, 3.4), layout="constrained")
    ax = figure.subplots()
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    for name, colour in {SCRATCH: "#bbbbbb", PRETRAINED: "#4477aa"}.items():
        for seed in seeds:
            own = [row for row in rows if row["seed"] == seed]
            label = name if seed == seeds[0] else None
            ax.plot([row["labelled"] for row in own], [row[name] for row in own], color=colour, marker="o", label=label)
    ax.axhline(100 / len(SHAPES), color="#999999", linestyle=":", linewidth=1)
    ax.set_xlabel("labelled scenes")
    ax.set_ylabel("held-out top-1 in %")
    ax.legend(fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, and write ``pretraining.json`` and ``pretraining.png``. This takes three quarters of an hour."""
    run("pretraining", str(main.__doc__), measure=measure, plot=plot)


if __name__ == "__main__":
    main()
