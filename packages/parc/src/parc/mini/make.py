"""Makes the tables of the mini-benchmark: ``truth.csv`` by fine-tuning, ``scores-{run}.csv`` by `parc.score_bank`."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parc.mini.models import ARCHITECTURES
from parc.mini.protocol import METHODS, MODELS, PROBE, RUNS, Micro, source_task, target, train, train_reference, truth
from parc.mini.report import read_rows, write_report
from parc.mini.tasks import TARGETS
from parc.sampling import sample_probe
from parc.scoring import Features, score_bank
from plm_core import weights
from plm_core.utils.files import write_text
from plm_core.utils.progress import track


def truth_row(model: nn.Module, micro: Micro, name: str) -> dict[str, str]:
    """Return a row of ``truth.csv``. The standard error is that of the mean over seeds."""
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
    """Return a trained source model, read from ``folder`` if it is there already."""
    path = folder / f"{micro.name.replace('/', '_')}.safetensors"
    if not path.exists():
        weights.save(train(micro), path)
    model = ARCHITECTURES[micro.architecture].build(micro.width, source_task(micro.source).classes)
    weights.load(model, path)
    return model.eval()


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a table, completely or not at all."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, buffer.getvalue())


def make_truth(out: Path) -> None:
    """Fine-tune every model on every target that ``truth.csv`` lacks."""
    path = out / "truth.csv"
    rows = read_rows(path) if path.exists() else []
    done = {(row["model"], row["target"]) for row in rows}
    cells = [(micro, name) for micro in MODELS for name in TARGETS if (micro.name, name) not in done]
    model, loaded = None, None
    for micro, name in track(cells, "fine-tuning", len(cells)):
        if loaded != micro or model is None:
            model, loaded = source_model(micro, out / "models"), micro
        rows.append(truth_row(model, micro, name))
        write_rows(path, rows)


@torch.no_grad()
def probe_features(model: Any, x: Tensor) -> Mapping[str, Any]:
    """Return features [N, D] and probabilities of the source classes [N, S], as keywords of `parc.Features`."""
    features = model.features(x)
    return {"features": features.numpy(), "probs": model.head(features).double().softmax(-1).numpy()}


def score_rows(
    models: Mapping[str, nn.Module], name: str, run: int, reference_model: nn.Module
) -> Iterator[dict[str, str]]:
    """Yield the rows of ``scores-{run}.csv`` for one target. A score that cannot be computed is an empty cell."""
    split = target(name)
    indices = torch.from_numpy(sample_probe(split.y.numpy(), PROBE, run))
    x, labels = split.x[indices], split.y[indices].numpy()
    reference_features = probe_features(reference_model, x)["features"]
    bank = {
        k: Features(**probe_features(model, x), reference_features=reference_features) for k, model in models.items()
    }
    rows: dict[str, dict[str, str]] = {k: {"run": str(run), "model": k, "target": name} for k in models}
    for row in score_bank(bank, labels, METHODS, num_classes=split.classes):
        rows[row.model][row.method] = "" if row.score is None else f"{row.score:.5g}"
    yield from rows.values()


def make_scores(out: Path) -> None:
    """Score every model on the probes of every target. This takes minutes, so it always starts from the beginning."""
    models = {micro.name: source_model(micro, out / "models") for micro in MODELS}
    rows: dict[int, list[dict[str, str]]] = {run: [] for run in RUNS}
    for name in track(TARGETS, "scores", len(TARGETS)):
        reference_model = train_reference(name)
        for run in RUNS:
            rows[run] += score_rows(models, name, run, reference_model)
    for run in RUNS:
        write_rows(out / f"scores-{run}.csv", rows[run])


def main() -> None:
    """Make ``truth.csv``, ``scores-{run}.csv``, ``mini.md`` and ``mini.png``."""
    parser = argparse.ArgumentParser(prog="python -m parc.mini", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Folder for the tables. A stopped run continues in it.")
    parser.add_argument("--only", choices=("truth", "scores", "report"), help="Run only one of the three stages.")
    arguments = parser.parse_args()
    out, only = arguments.out, arguments.only
    if only in (None, "truth"):
        make_truth(out)
    if only in (None, "scores"):
        make_scores(out)
    if only in (None, "report"):
        write_report(out)
