"""The folder that a training leaves: a model folder with the record of the training and its curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from plm_core import weights
from plm_core.hookspecs import Training
from plm_core.registry import registry
from plm_core.runs.job import Job, Trained
from plm_core.training.curve import write_curve
from plm_core.utils.files import write_text

RECORD_FILE = "training.json"
MAX_LABELS = 20
"""Number of class names that a model card lists."""


def write_run(job: Job, trained: Trained, license: str | None = None) -> None:
    """Write the model folder of a training. The config comes last, so a folder with a config is complete.

    Args:
        job: What was asked for.
        trained: What the recipe returned.
        license: SPDX identifier of the license of the trained weights; None for that of the weights that the training
            started from, or "other".
    """
    model = trained.model.cpu()
    start: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    from_its_weights = job.pretrained and job.weights is None
    license = license or (start.get("license") if from_its_weights else None) or "other"
    for name, extra in trained.extras.items():
        weights.save(extra, job.out / name)
    write_curve(trained.history, job.out, title=f"{job.recipe}: {job.model}")
    write_text(job.out / RECORD_FILE, json.dumps(record(job, trained), indent=2, default=str) + "\n")
    weights.save_pretrained(
        model,
        job.out,
        license,
        card(job, trained),
        labels=tuple(trained.labels) or None,
        about={"recipe": job.recipe},
    )


def record(job: Job, trained: Trained) -> dict[str, Any]:
    """Return everything that reproduces a training and identifies its result, as plain data."""
    owner = registry().all(Training)[job.recipe].distribution
    versions = {name: metadata.version(name) for name in dict.fromkeys(("plm-core", owner, "torch", "timm"))}
    return {
        "recipe": job.recipe,
        "data": {"source": _name(job.data), "found": trained.data},
        "model": _name(job.model),
        "preset": job.preset,
        "settings": dict(job.settings),
        "model_kwargs": dict(job.model_kwargs),
        "pretrained": job.pretrained,
        "weights": None if job.weights is None else job.weights.name,
        "transforms": list(job.transforms),
        "config": asdict(job.config) if is_dataclass(job.config) and not isinstance(job.config, type) else {},
        "options": {key: value for key, value in job.options.items() if key not in ("out", "resume")},
        "scores": dict(trained.scores),
        "notes": dict(trained.notes),
        "steps": int(trained.history[-1]["step"]) if trained.history else 0,
        "digest": weights.fingerprint(trained.model),
        "versions": versions,
    }


def card(job: Job, trained: Trained) -> str:
    """Return the text of the model card: the start, the data, the recipe, the seed and the scores."""
    start = "its pretrained weights" if job.pretrained else "random weights"
    start = f"the weights of `{job.weights.name}`" if job.weights else start
    rows = {
        "Start": f"`{_name(job.model)}` with {start}",
        "Data": trained.data,
        "Recipe": f"`{_command(job)}`",
        "Seed": str(job.seed),
        **{name: f"{value:.4g}" for name, value in trained.scores.items()},
        **trained.notes,
        "Classes": _classes(trained.labels),
    }
    lines = "\n".join(f"- **{name}**: {value}" for name, value in rows.items() if value)
    return f"Trained with `plm train`.\n\n{lines}\n\n![Loss by step](curve.png)"


def _name(source: str) -> str:
    """Return the last part of a path: a folder that is published should not tell where somebody keeps files."""
    return Path(source).name if Path(source).exists() or source.startswith("local-dir:") else source


def _command(job: Job) -> str:
    """Return the command line of a job without its paths, which are of no use to a stranger."""
    settings = [] if job.pretrained or job.weights else ["--random"]
    settings += [f"--preset {job.preset}", *(f"--set {key}={value}" for key, value in job.settings.items())]
    settings += [f"--transform {text}" for text in job.transforms]
    settings += [f"--model-kwargs {key}={value}" for key, value in job.model_kwargs.items()]
    return " ".join(["plm train", job.recipe, "DATA", "--out FOLDER", f"--model {_name(job.model)}", *settings])


def _classes(labels: Any) -> str:
    more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    return ", ".join(labels[:MAX_LABELS]) + more
