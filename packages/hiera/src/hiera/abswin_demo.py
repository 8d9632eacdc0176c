"""The bug of "Window Attention is Bugged" and its fix, measured on a micro model trained here.

    uv run python -m hiera.abswin_demo --out DIR      # the table and the plot of the README

Two models are trained at 48 px alike but for their positions: a plain embedding, and Absolute Win. Random crops show
them shapes of up to twice their usual size, so that larger pictures bring no new scale. Both then see new scenes at
other resolutions, and both are finetuned at twice the resolution. A third row is the Absolute Win model with its
embedding frozen into a plain one (`frozen`): at 48 px it is the same function, and at any other size what a plain model
does, so that nothing but the way to the new size differs.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resized_crop

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from hiera.micro import InMemory
from hiera.micro_shapes import moved, scenes
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, Finetuning, accuracy, finetune
from plm_core import shapes
from plm_core.files import atomic_path, write_text
from plm_core.progress import track
from plm_core.shapes import SHAPES

TRAINED, SIZES, TWICE = 48, (48, 64, 80, 96, 112, 128), 96
SCENES, EPOCHS = 6000, 14.0
FEW, FINETUNED = 1000, (1.0, 2.0, 4.0)
HELD_OUT = 1000
PLAIN, BUG, FIX = "plain, interpolated", "Absolute Win frozen, interpolated", "Absolute Win"


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Scenes twice as large as the model's input, cut to a random square around the shape and resized.

    Args:
        count: Scenes of one shape.
        size: Side of the result in pixels.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        world = shapes.Images("train", size=2 * size, count=count, objects=(1, 1), background="plain")
        self.items = [
            (torch.from_numpy(scene.image).permute(2, 0, 1), SHAPES.index(scene.objects[0].shape), scene.objects[0].box)
            for scene in track(world, "drawing train scenes", count)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label, (x0, y0, x1, y1) = self.items[index]
        whole = 2 * self.size
        side = int(torch.randint(max(self.size, math.ceil(max(x1 - x0, y1 - y0))), whole + 1, ()))
        top, left = (
            int(torch.randint(max(0, math.ceil(high) - side), min(math.floor(low), whole - side) + 1, ()))
            for low, high in ((y0, y1), (x0, x1))
        )
        crop = resized_crop(image, top, left, side, side, [self.size, self.size], antialias=True)
        return moved(crop / 127.5 - 1), torch.tensor(label)


def frozen(model: Hiera) -> Hiera:
    """A Hiera with Absolute Win -> one with the same embedding at its own size as a plain table."""
    plain = Hiera(**{**configs.MICRO_SHAPES, "abs_win_pos_embed": False}, num_classes=len(SHAPES), probabilities=False)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("pos_embed")}
    with torch.no_grad():
        plain.load_state_dict({**state, "pos_embed": model.positions(model.grid).flatten(1, 2)})
    return plain


def measure(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row per seed and way to another size: top-1 in % at each of `SIZES`, and at `TWICE` after finetuning."""
    train, small = Crops(SCENES, TRAINED), InMemory(*scenes("train", FEW, TWICE), moved)
    held_out = {size: InMemory(*scenes("heldout", HELD_OUT, size)) for size in SIZES}
    rows = []
    for seed in track(seeds, "seeds"):
        models = {}
        for name, abs_win in ((PLAIN, False), (FIX, True)):
            torch.manual_seed(seed)
            config = {**configs.MICRO_SHAPES, **configs.MICRO_MAE, "abs_win_pos_embed": abs_win}
            model = MaskedAutoencoderHiera(**config).plain_encoder(len(SHAPES), q_pool=2, probabilities=False)
            finetune(model, train, _setting(EPOCHS, 1e-3), len(SHAPES), seed=seed)
            models[name] = model
        models[BUG] = frozen(models[FIX])
        for name, model in models.items():
            row: dict[str, Any] = {"seed": seed, "positions": name}
            row |= {f"{size} px": accuracy(model, data, batch=100) for size, data in held_out.items()}
            for epochs in FINETUNED:
                tuned = copy.deepcopy(model)
                finetune(tuned, small, _setting(epochs, 5e-4), len(SHAPES), seed=seed)
                row[f"finetuned {epochs:g}"] = accuracy(tuned, held_out[TWICE], batch=100)
            rows.append(row)
    return rows


def _setting(epochs: float, lr: float) -> Finetuning:
    recipe = replace(FINETUNE_IMAGE["micro"].recipe, epochs=epochs, warmup_epochs=epochs / 10, lr=lr)
    return replace(FINETUNE_IMAGE["micro"], recipe=recipe)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Mean over the seeds, and the range: one row per way."""
    result = []
    for name in (PLAIN, BUG, FIX):
        chosen = [row for row in rows if row["positions"] == name]
        cells = {}
        for key in chosen[0]:
            if key not in ("seed", "positions"):
                values = [row[key] for row in chosen]
                cells[key] = f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        result.append({"positions": name, **cells})
    return result


def plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy by resolution without finetuning, and at twice the resolution by epochs of it; a line per seed."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = {PLAIN: "#bbbbbb", BUG: "#ee6677", FIX: "#4477aa"}
    for row in rows:
        name = row["positions"]
        style = {"color": colours[name], "marker": "o", "label": name if row["seed"] == rows[0]["seed"] else None}
        left.plot(SIZES, [row[f"{size} px"] for size in SIZES], **style)
        tuned = [row[f"{TWICE} px"], *(row[f"finetuned {epochs:g}"] for epochs in FINETUNED)]
        right.plot([0, *FINETUNED], tuned, **style)
    left.set_xlabel(f"resolution in pixels (trained at {TRAINED})")
    left.set_ylabel("held-out top-1 in %")
    right.set_xlabel(f"epochs of finetuning at {TWICE} px")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.axhline(100 / len(SHAPES), color="#999999", linestyle=":", linewidth=1)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, and write ``abswin.json`` and ``abswin.png``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = measure(range(arguments.seeds))
    write_text(arguments.out / "abswin.json", json.dumps(rows, indent=1))
    with atomic_path(arguments.out / "abswin.png") as path:
        plot(rows).savefig(path, format="png", dpi=120)
    for row in summary(rows):
        print(row)


if __name__ == "__main__":
    main()
