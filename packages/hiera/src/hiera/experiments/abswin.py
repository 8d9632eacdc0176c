"""The measurement of "Window Attention is Bugged": the accuracy that position embeddings keep at other sizes.

    python -m hiera.experiments.abswin --out DIR      # the table and the plot of the README

Two models learn to read digits of 16 to 32 px on a canvas of 32 px and differ only in their positions: a plain
embedding, and Absolute Win. Both are then evaluated on digits of the same sizes on larger canvases, like a detector on
objects in larger images, and both are finetuned at twice the resolution. A third row is the Absolute Win model with its
embedding frozen into a plain one (`frozen`). At 32 px it is the same function. At any other size its embedding is
interpolated like that of a plain model, so the two differ only in how they reach the new size. `hiera.micro.abswin` has
the models and the data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hiera.experiments.command import Rows, run
from hiera.micro.abswin import EPOCHS, LR, TRAINED, TWICE, Placed, classifier, finetuning
from hiera.model import Hiera
from plm_core.training.finetuning import accuracy, finetune
from plm_core.utils import plots
from plm_core.utils.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (32, 48, 64, 80, 96)  # sides of the canvas in pixels
FINETUNED = (1.0, 2.0, 4.0)  # epochs of finetuning at TWICE
PLAIN = "plain, interpolated"
BUG = "Absolute Win frozen, interpolated"
FIX = "Absolute Win"


def frozen(model: Hiera) -> Hiera:
    """Return a twin of the micro model whose one position table is the whole embedding at the model's own size."""
    plain = classifier(0, abs_win=False)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("pos_embed")}
    with torch.no_grad():
        plain.load_state_dict({**state, "pos_embed": model.positions(model.grid).flatten(1, 2)})
    return plain


def measure(seeds: Sequence[int]) -> Rows:
    """Measure top-1 in % at each of `SIZES`, and at `TWICE` after finetuning, by seed and kind of positions."""
    train, larger = Placed("train", TRAINED), Placed("train", TWICE)
    held_out = {size: Placed("heldout", size, fixed=True) for size in SIZES}
    rows: list[dict[str, Any]] = []
    for seed in track(seeds, "seeds"):
        models = {}
        for name, abs_win in ((PLAIN, False), (FIX, True)):
            models[name] = classifier(seed, abs_win)
            finetune(models[name], train, finetuning(EPOCHS, LR), 10, seed=seed)
        models[BUG] = frozen(models[FIX])
        for name, model in models.items():
            row: dict[str, Any] = {"seed": seed, "positions": name}
            row |= {f"{size} px": accuracy(model, data, batch_size=90) for size, data in held_out.items()}
            for epochs in FINETUNED:
                finetuned = copy.deepcopy(model)
                finetune(finetuned, larger, finetuning(epochs, 5e-4), 10, seed=seed)
                row[f"finetuned {epochs:g}"] = accuracy(finetuned, held_out[TWICE], batch_size=90)
            rows.append(row)
    return rows


def summary(rows: Rows) -> list[dict[str, str]]:
    """Return means over the seeds and their ranges, with one row per kind of positions."""
    result = []
    for name in (PLAIN, BUG, FIX):
        runs = [row for row in rows if row["positions"] == name]
        cells = {}
        for key in runs[0]:
            if key not in ("seed", "positions"):
                values = [row[key] for row in runs]
                cells[key] = f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        result.append({"positions": name, **cells})
    return result


def plot(rows: Rows) -> Figure:
    """Plot accuracy by resolution, and by epochs of finetuning at twice the resolution, with a line for each seed."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = {PLAIN: "#bbbbbb", BUG: "#ee6677", FIX: "#4477aa"}
    for row in rows:
        name = row["positions"]
        style = {"color": colours[name], "marker": "o", "label": name if row["seed"] == rows[0]["seed"] else None}
        left.plot(SIZES, [row[f"{size} px"] for size in SIZES], **style)
        by_epochs = [row[f"{TWICE} px"], *(row[f"finetuned {epochs:g}"] for epochs in FINETUNED)]
        right.plot([0, *FINETUNED], by_epochs, **style)
    left.set_xlabel(f"resolution in pixels (trained at {TRAINED})")
    left.set_ylabel("held-out top-1 in %")
    right.set_xlabel(f"epochs of finetuning at {TWICE} px")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.axhline(10, color="#999999", linestyle=":", linewidth=1)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, and write ``abswin.json`` and ``abswin.png``."""
    run("abswin", str(main.__doc__), measure=measure, plot=plot, summary=summary)


if __name__ == "__main__":
    main()
