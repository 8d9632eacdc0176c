"""``plm retrain``: train a shipped micro model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.info import find_model
from plm_core.cli.options import Seed
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.utils.files import make_folder
from plm_core.utils.references import resolve


def retrain(
    model: Annotated[str, typer.Argument(help="Name of a micro model, such as hiera_micro_digits.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights and the model card.")] = Path("retrained"),
    seed: Seed = 0,
) -> None:
    """Train a shipped micro model from scratch by its own recipe and report its held-out score."""
    spec = find_model(model)
    if spec.micro is None:
        micros = [name for name, entry in registry().all(Model).items() if entry.declaration.micro]
        raise InputError(f"model {model!r} is not a micro model; there are: {', '.join(micros)}")
    scores = resolve(spec.micro.recipe)(make_folder(out), seed=seed)
    show(
        [
            {"model": model, "metric": metric, "score": round(score, 4), "folder": str(out)}
            for metric, score in scores.items()
        ]
    )
