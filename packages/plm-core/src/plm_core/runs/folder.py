"""The folder that a training leaves: a model folder with the record of the training and its curve."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from plm_core import weights
from plm_core.hookspecs import Training
from plm_core.hub import RECORD_FILE
from plm_core.registry import registry
from plm_core.runs.job import Job, Trained
from plm_core.runs.request import last_part, request_of, without_folder
from plm_core.training.curve import write_curve
from plm_core.utils.files import write_text

MAX_LABELS = 20
"""Number of class names that a model card lists."""
CHANGING = ("precision", "per_device_batch_size", "max_steps")
"""Options beside the settings that change the weights."""


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
    from_its_weights = job.pretrained and job.weights is None and not trained.start
    license = license or (start.get("license") if from_its_weights else None) or "other"
    for name, extra in trained.extras.items():
        weights.save(extra, job.out / name)
    if trained.beside is not None:
        trained.beside(job.out)
    write_curve(trained.history, job.out, title=f"{job.recipe}: {last_part(job.model)}")
    write_text(job.out / RECORD_FILE, json.dumps(record(job, trained), indent=2, default=str) + "\n")
    weights.save_pretrained(
        model,
        job.out,
        license,
        card(job, trained),
        labels=tuple(trained.labels) or None,
        about={**trained.about, "recipe": job.recipe},
    )


def record(job: Job, trained: Trained) -> dict[str, Any]:
    """Return everything that reproduces a training and identifies its result, as plain data."""
    owner = registry().all(Training)[job.recipe].distribution
    versions = {name: metadata.version(name) for name in dict.fromkeys(("plm-core", owner, "torch", "timm"))}
    return {
        **request_of(job),
        "found": trained.data,
        "scores": dict(trained.scores),
        "notes": dict(trained.notes),
        "steps": int(trained.history[-1]["step"]) if trained.history else 0,
        "digest": weights.fingerprint(trained.model),
        "versions": versions,
    }


def card(job: Job, trained: Trained) -> str:
    """Return the text of the model card: the start, the data, the recipe, the seed and the scores."""
    start = "its pretrained weights" if job.pretrained else "random weights"
    start = f"the weights of `{last_part(job.weights)}`" if job.weights else start
    rows = {
        "Start": f"`{last_part(job.model)}` with {trained.start or start}",
        "Data": trained.data,
        "Recipe": f"`{_command(job)}`",
        "Steps": str(int(trained.history[-1]["step"])) if trained.history else "",
        "Seed": str(job.seed),
        **{name: f"{value:.4g}" for name, value in trained.scores.items()},
        **trained.notes,
        "Classes": _classes(trained.labels),
    }
    lines = "\n".join(f"- **{name}**: {value}" for name, value in rows.items() if value)
    return (
        f"Trained with `plm train`. The weights are those after the last step.\n\n{lines}\n\n![Loss by step](curve.png)"
    )


def _command(job: Job) -> str:
    """Return the command line of a job without its paths, which are of no use to a stranger."""
    has_weights = "pretrained" in registry().get(Training, job.recipe).options
    words = ["--random"] if has_weights and not (job.pretrained or job.weights) else []
    words += [f"--weights {shlex.quote(last_part(job.weights))}"] if job.weights else []
    words += [f"--preset {job.preset}"]
    words += [f"--set {shlex.quote(f'{key}={without_folder(value)}')}" for key, value in job.settings.items()]
    words += [f"--transform {shlex.quote(text)}" for text in job.transforms]
    words += [f"--model-kwargs {shlex.quote(f'{key}={value}')}" for key, value in job.model_kwargs.items()]
    words += ["--skip-unreadable"] if job.skip_unreadable else []
    options = {"seed": job.seed or None, **{name: job.options.get(name) for name in CHANGING}}
    options |= {"precision": None} if options["precision"] == "fp32" else {}
    words += [f"--{name.replace('_', '-')} {value}" for name, value in options.items() if value is not None]
    name = last_part(job.model)
    model = name if name == job.model else shlex.quote(f"PATH/{name}")
    return " ".join(["plm train", job.recipe, "DATA", "--out FOLDER", f"--model {model}", *words])


def _classes(labels: Any) -> str:
    more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    return ", ".join(labels[:MAX_LABELS]) + more
