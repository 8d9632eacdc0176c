"""A small honest benchmark: do the scores tell which of 48 micro models to fine-tune?

    python -m parc.mini --out DIR     # some 25 minutes on one core; goes on where it was stopped

The protocol is the constants of this module and the tasks of `parc.mini.tasks`, fixed before any score was computed.
Models learn a source task (8 tasks, 3 architectures, 2 widths). The truth is the accuracy on held-out images after
fine-tuning everything on 100 images of a target, the mean over 10 seeds which differ in images, head and order. Scores
see probes of 200 labelled images of the same pool, as `parc.sample_probe` draws them. Tables are written into DIR and
are shipped with the package; `parc.mini.report` reads them.
"""

from __future__ import annotations

import argparse
import csv
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parc.mini.models import ARCHITECTURES, finetune, train_source
from parc.mini.tasks import SOURCES, TARGETS, Task
from parc.probe import sample_probe
from plm_core import weights
from plm_core.utils.files import write_text
from plm_core.utils.progress import track

WIDTHS = (32, 64)
SOURCE_EPOCHS, SOURCE_LR = 20, 2e-3
SEEDS = 10
TRAIN, BATCH, EPOCHS, LR = 100, 20, 12, 0.1
PROBE, RUNS = 200, (0, 1, 2)
TRAIN_RUN = 100  # the subsets to train on are probes too, of other runs than those for the scores
REFERENCE = "cnn-64"  # rsa and dds: trained from scratch on the target's pool
METHODS = (
    "parc",
    "parc:pca=32",
    "rsa",
    "dds",
    "leep",
    "nce",
    "nleep",
    "energy",
    "hscore",
    "hscore-shrunk",
    "lda-loo",
    "sfda",
    "gbc",
    "transrate",
    "logme",
    "knn",
    "split-knn",
    "logistic",
    "ridge-press",
)


@dataclass(frozen=True)
class Micro:
    """A source model; its name is ``architecture-width/source``."""

    architecture: str
    width: int
    source: str

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.architecture}-{self.width}/{self.source}"


BANK = [Micro(a, w, s) for s in SOURCES for a in ARCHITECTURES for w in WIDTHS]


@dataclass(frozen=True)
class Split:
    """A target: a pool to label, probe and fine-tune on, and held-out images. Images are float [N, 3, 12, 12]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def inputs(task: Task) -> tuple[Tensor, Tensor]:
    """Images from -1 to 1, and labels, as the models take them."""
    return torch.from_numpy(np.ascontiguousarray(task.x)) * 2 - 1, torch.from_numpy(np.ascontiguousarray(task.y))


@cache
def target(name: str) -> Split:
    """The two halves of a target."""
    task = TARGETS[name]()
    x, y = inputs(task)
    half = len(y) // 2
    return Split(x[:half], y[:half], x[half:], y[half:], task.classes)


@cache
def _source(name: str) -> Task:
    return SOURCES[name]()


def seed_of(*names: str) -> int:
    """A seed from names, the same everywhere."""
    return zlib.crc32("|".join(names).encode())


def train(micro: Micro) -> nn.Module:
    """Train a source model on its task, from a seed of its name."""
    task = _source(micro.source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(micro.name))
        model = ARCHITECTURES[micro.architecture].build(micro.width, task.classes)
    if micro.source != "untrained":
        x, y = inputs(task)
        train_source(model, x, y, epochs=SOURCE_EPOCHS, lr=SOURCE_LR, seed=seed_of(micro.name, "order"))
    return model.eval()


def truth(model: nn.Module, micro: Micro, name: str) -> NDArray[np.float64]:
    """Accuracy in percent on the target's held-out images after fine-tuning, by seed, float64 [10]."""
    split = target(name)
    seeds = [seed_of(micro.name, name, str(seed)) for seed in range(SEEDS)]
    subsets = [sample_probe(split.y.numpy(), TRAIN, TRAIN_RUN + seed) for seed in range(SEEDS)]
    return finetune(
        model,
        split.x,
        split.y,
        torch.from_numpy(np.stack(subsets)),
        (split.test_x, split.test_y),
        classes=split.classes,
        lr=LR,
        epochs=EPOCHS,
        batch=BATCH,
        seeds=seeds,
    )


def truth_row(model: nn.Module, micro: Micro, name: str) -> dict[str, str]:
    """A row of ``truth.csv``; the standard error is that of the mean over seeds."""
    values = truth(model, micro, name)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {
        "model": micro.name,
        "target": name,
        "mean": f"{values.mean():.3f}",
        "se": f"{error:.3f}",
        "seeds": str(len(values)),
    }


def source_model(micro: Micro, folder: Path) -> nn.Module:
    """The trained source model, from ``folder`` where it is already there."""
    path = folder / f"{micro.name.replace('/', '_')}.safetensors"
    if not path.exists():
        weights.save(train(micro), path)
    model = ARCHITECTURES[micro.architecture].build(micro.width, _source(micro.source).classes)
    weights.load(model, path)
    return model.eval()


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a table; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """A whole table, or what was there before."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, buffer.getvalue())


def make_truth(out: Path) -> None:
    """Fine-tune every model on every target that ``truth.csv`` lacks."""
    rows = read(out / "truth.csv")
    done = {(row["model"], row["target"]) for row in rows}
    cells = [(micro, name) for micro in BANK for name in TARGETS if (micro.name, name) not in done]
    model, held = None, None
    for micro, name in track(cells, "fine-tuning", len(cells)):
        if held != micro or model is None:
            model, held = source_model(micro, out / "models"), micro
        rows.append(truth_row(model, micro, name))
        write(out / "truth.csv", rows)


@torch.no_grad()
def probe_features(model: Any, x: Tensor) -> Mapping[str, Any]:
    """Features [N, D] and probabilities of the source classes [N, S], as `parc.score` takes them."""
    features = model.features(x)
    return {"features": features.numpy(), "probs": model.head(features).double().softmax(-1).numpy()}


def reference(name: str) -> nn.Module:
    """The model trained from scratch on a target's pool, for the scores that compare with one."""
    split = target(name)
    architecture, width = REFERENCE.split("-")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("reference", name))
        model = ARCHITECTURES[architecture].build(int(width), split.classes)
    train_source(model, split.x, split.y, epochs=SOURCE_EPOCHS, lr=SOURCE_LR, seed=seed_of("reference", name, "order"))
    return model.eval()


def score_rows(
    models: Mapping[str, nn.Module], name: str, run: int, reference_model: nn.Module
) -> Iterator[dict[str, str]]:
    """Rows of ``scores-{run}.csv`` for one target; a score that cannot be computed is an empty cell."""
    from parc.scoring import Features, score_bank

    split = target(name)
    chosen = torch.from_numpy(sample_probe(split.y.numpy(), PROBE, run))
    x, labels = split.x[chosen], split.y[chosen].numpy()
    beside = probe_features(reference_model, x)["features"]
    bank = {k: Features(**probe_features(model, x), reference_features=beside) for k, model in models.items()}
    rows: dict[str, dict[str, str]] = {k: {"run": str(run), "model": k, "target": name} for k in models}
    for row in score_bank(bank, labels, METHODS, num_classes=split.classes):
        rows[row.model][row.method] = "" if row.score is None else f"{row.score:.5g}"
    yield from rows.values()


def make_scores(out: Path) -> None:
    """Score every model on the probes of every target; minutes, so from the start each time."""
    models = {micro.name: source_model(micro, out / "models") for micro in BANK}
    rows: dict[int, list[dict[str, str]]] = {run: [] for run in RUNS}
    for name in track(TARGETS, "scores", len(TARGETS)):
        beside = reference(name)
        for run in RUNS:
            rows[run] += score_rows(models, name, run, beside)
    for run in RUNS:
        write(out / f"scores-{run}.csv", rows[run])


def main() -> None:
    """Make ``truth.csv``, ``scores-{run}.csv``, ``mini.md`` and ``mini.png``."""
    parser = argparse.ArgumentParser(prog="python -m parc.mini", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder; a run that was stopped goes on in it")
    parser.add_argument("--only", choices=("truth", "scores", "report"), help="one stage of the three")
    arguments = parser.parse_args()
    out, only = arguments.out, arguments.only
    if only in (None, "truth"):
        make_truth(out)
    if only in (None, "scores"):
        make_scores(out)
    if only in (None, "report"):
        from parc.mini.report import report

        report(out)
