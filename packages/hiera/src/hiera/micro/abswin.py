"""The recipe of ``hiera_micro_abswin``, and the measurement of "Window Attention is Bugged" that it is taken from.

    uv run python -m hiera.micro.abswin --out DIR      # the table and the plot of the README

Two models learn to read digits of 16 to 32 px on a canvas of 32 px, alike but for their positions: a plain embedding,
and Absolute Win. Both then see digits of the same sizes on larger canvases, as a detector sees objects in larger
images, and both are finetuned at twice the resolution. A third row is the Absolute Win model with its embedding frozen
into a plain one (`frozen`): at 32 px it is the same function, at any other size it does what a plain model does, so
that nothing but the way to the new size differs.

``plm retrain hiera_micro_abswin --out DIR`` runs `train`, ``hiera_micro_plain`` `train_plain`. They need the
extra ``hiera[train]``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from hiera import configs
from hiera.micro import save
from hiera.model import Hiera
from hiera.recipes import FINETUNE_IMAGE, Finetuning, accuracy, finetune
from plm_core import samples
from plm_core.training import seeded
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, PLAIN_NAME = "hiera_micro_abswin", "hiera_micro_plain"
TRAINED, TWICE, SIZES = 32, 64, (32, 48, 64, 80, 96)
SMALLEST, LARGEST = 16, 32
EPOCHS, LR, FINETUNED = 30.0, 2e-3, (1.0, 2.0, 4.0)
PLAIN, BUG, FIX = "plain, interpolated", "Absolute Win frozen, interpolated", "Absolute Win"
OWN, LARGER = f"held-out placed digits top-1 % at {TRAINED} px", f"held-out placed digits top-1 % at {TWICE} px"


class Placed(Dataset[tuple[Tensor, Tensor]]):
    """Digits of random size and place on a canvas, float [3, canvas, canvas] from -1 to 1.

    Args:
        split: "train" or "heldout".
        canvas: Its side in pixels.
        fixed: Draw size and place by the index, so that every pass is the same.
    """

    def __init__(self, split: Literal["train", "heldout"], canvas: int, fixed: bool = False) -> None:
        images, labels = samples.digits(split)
        small = torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image in images])[:, None] / 127.5 - 1
        self.background = small.min()
        self.labels = torch.from_numpy(labels)
        self.resized = {
            side: F.interpolate(small.float(), size=side, mode="bicubic", antialias=True).clamp(-1, 1)
            for side in range(SMALLEST, LARGEST + 1, 4)
        }
        self.canvas = canvas
        self.fixed = fixed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with seeded(index) if self.fixed else nullcontext():
            side = SMALLEST + 4 * int(torch.randint(len(self.resized), ()))
            top, left = torch.randint(self.canvas - side + 1, (2,)).tolist()
        x = self.background.repeat(1, self.canvas, self.canvas)
        x[:, top : top + side, left : left + side] = self.resized[side][index]
        return x.expand(3, -1, -1), self.labels[index]


def classifier(seed: int, abs_win: bool) -> Hiera:
    """The micro model, untrained."""
    torch.manual_seed(seed)
    config = {**configs.MICRO_ABSWIN, "abs_win_pos_embed": abs_win}
    return Hiera(**config, num_classes=10, probabilities=False)


def frozen(model: Hiera) -> Hiera:
    """The micro model -> one with the same position embedding at its own size as a plain table."""
    plain = classifier(0, abs_win=False)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("pos_embed")}
    with torch.no_grad():
        plain.load_state_dict({**state, "pos_embed": model.positions(model.grid).flatten(1, 2)})
    return plain


def train(out: Path, seed: int = 0, epochs: float = EPOCHS, abs_win: bool = True) -> Mapping[str, float]:
    """Train with Absolute Win and write ``hiera_micro_abswin.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Of initialisation, order and augmentation.
        epochs: Passes over the 1437 training digits.
        abs_win: False for the plain twin, ``hiera_micro_plain``.

    Returns:
        The held-out scores, as `evaluate` gives them.
    """
    name = NAME if abs_win else PLAIN_NAME
    model = classifier(seed, abs_win)
    setting = _setting(epochs, LR)
    finetune(model, Placed("train", TRAINED), setting, 10, seed=seed)
    scores = evaluate(model)
    facts = {
        "Data": f"scikit-learn's digits (every fifth of 1797 held out) at {SMALLEST} to {LARGEST} px, at random places "
        f"of a canvas of {TRAINED} px.",
        "Recipe": f"`plm retrain {name} --seed {seed}` (module `hiera.micro.abswin`): {epochs:g} epochs, batch "
        f"{setting.recipe.batch}, AdamW lr {LR}, weight decay {setting.recipe.weight_decay}, cosine, label smoothing "
        f"{setting.smoothing}; no pretraining.",
        "Held-out top-1": f"{scores[OWN]:.2f} % at {TRAINED} px; {scores[LARGER]:.2f} % on canvases of {TWICE} px, "
        "which it was not trained on.",
    }
    positions = "Absolute Win positions (arXiv 2311.05613)" if abs_win else "a plain position embedding"
    what = f"with {positions}, trained from scratch to read digits anywhere on a canvas"
    save(model, name=name, out=out, task="image-classification", what=what, facts=facts)
    return scores


def train_plain(out: Path, seed: int = 0, epochs: float = EPOCHS) -> Mapping[str, float]:
    """Train the twin with a plain position embedding, as `train`; writes ``hiera_micro_plain.safetensors``."""
    return train(out, seed, epochs, abs_win=False)


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Top-1 in % of a classifier of ten digits on the 360 held-out ones, on canvases of both sizes."""
    return {
        name: accuracy(model, Placed("heldout", size, fixed=True), batch=90)
        for name, size in ((OWN, TRAINED), (LARGER, TWICE))
    }


def measure(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row per seed and way to another size: top-1 in % at each of `SIZES`, and at `TWICE` after finetuning."""
    train, larger = Placed("train", TRAINED), Placed("train", TWICE)
    held_out = {size: Placed("heldout", size, fixed=True) for size in SIZES}
    rows = []
    for seed in track(seeds, "seeds"):
        models = {}
        for name, abs_win in ((PLAIN, False), (FIX, True)):
            models[name] = classifier(seed, abs_win)
            finetune(models[name], train, _setting(EPOCHS, LR), 10, seed=seed)
        models[BUG] = frozen(models[FIX])
        for name, model in models.items():
            row: dict[str, Any] = {"seed": seed, "positions": name}
            row |= {f"{size} px": accuracy(model, data, batch=90) for size, data in held_out.items()}
            for epochs in FINETUNED:
                tuned = copy.deepcopy(model)
                finetune(tuned, larger, _setting(epochs, 5e-4), 10, seed=seed)
                row[f"finetuned {epochs:g}"] = accuracy(tuned, held_out[TWICE], batch=90)
            rows.append(row)
    return rows


def _setting(epochs: float, lr: float) -> Finetuning:
    recipe = replace(FINETUNE_IMAGE["micro"].recipe, clip_grad=None, epochs=epochs, warmup_epochs=epochs / 10, lr=lr)
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
    from matplotlib.figure import Figure

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
        ax.axhline(10, color="#999999", linestyle=":", linewidth=1)
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
