"""`train`, which runs a recipe by name: it checks what was asked for, calls the recipe, and writes the model folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from plm_core.datasets import check_kind
from plm_core.errors import FileError, InputError, MissingDependency
from plm_core.hookspecs import Training
from plm_core.hub import CONFIG_FILE, PUSHED
from plm_core.registry import registry
from plm_core.runs.folder import write_run
from plm_core.runs.job import Job, Trained, architecture_of
from plm_core.runs.request import check_new, check_request, write_request
from plm_core.training.checkpoints import check_not_in_use
from plm_core.training.loop import check_fit_options
from plm_core.training.overrides import override
from plm_core.utils.arguments import DEVICE, split_random
from plm_core.utils.references import resolve
from plm_core.utils.seeding import GENERATORS

ALLOWED = (".*", "runs", "*.log", "*.out", "*.err")
"""What may be in the folder of a new training: hidden files, the folder of tensorboard, and logs."""
_log = logging.getLogger(__name__)


def train(
    recipe: str,
    data: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    transforms: Sequence[str] = (),
    license: str | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    resume: bool = False,
    precision: str = "fp32",
    fsdp: bool = False,
    device: str = DEVICE,
    max_steps: int | None = None,
    save_steps: int = 1000,
    per_device_batch_size: int | None = None,
    num_workers: int = 0,
    report_to: Sequence[str] = (),
) -> Trained | None:
    """Train a model by a recipe, and leave a model folder.

    The folder holds ``model.safetensors``, ``config.json``, ``README.md`` (a model card), ``training.json`` (everything
    that was asked for, and digests), the loss curve as ``curve.csv`` and ``curve.png``, and the last checkpoints.
    ``create_model``, ``plm predict``, ``plm rank`` and ``plm push`` take it as it is.

    Example:
        >>> from plm_core.runs import train
        >>> trained = train("finetune", "digits/", "runs/digits", model="hiera_micro_digits", settings={"epochs": 1})
        >>> model = plm_core.create_model("runs/digits", pretrained=True)

    Args:
        recipe: Name of a declared recipe, see ``plm train --list``.
        data: The data, of the kind that the recipe takes.
        out: Folder to write to.
        model: Name of a model; None for the recipe's own. The prefix ``random:`` stands for ``pretrained=False``.
        preset: Name of the recipe's preset; None for the one that the recipe has for the model.
        settings: Changes to the preset by the names of its fields. Values may be written as text.
        pretrained: Whether to start from the model's pretrained weights (default: yes, if the recipe can).
        weights: Weights to start from instead, in any layout: a file, a repository of the Hub or the name of declared
            weights, such as ``hiera_image_tiny_224.mae_in1k``. A classifier in them is left out.
        model_kwargs: Further keywords for ``create_model``, such as ``img_size``.
        transforms: Transforms to train with, such as ``tome:r=8``.
        license: SPDX identifier of the license of the trained weights (default: that of the weights that the training
            started from, or else "other").
        seed: Random seed.
        skip_unreadable: Whether to leave out images or videos that cannot be read, which are an error otherwise.
        resume: Whether to continue from the newest checkpoint in ``out``. If there is none, the training starts from
            the beginning, and a warning says so.
        precision: "fp32", or "bf16" or "fp16" by autocast.
        fsdp: Whether to shard the parameters over the processes.
        device: "auto" for the accelerator if there is one, else the CPU; "cpu", or the accelerator's name.
        max_steps: Stop after this many optimiser steps. The schedule stays that of the whole training.
        save_steps: Optimiser steps between checkpoints.
        per_device_batch_size: Samples per forward pass on one device.
        num_workers: Processes per device that load data.
        report_to: Trackers to log to as well: "tensorboard", "wandb" and others of transformers.

    Returns:
        The result, or None in a process that is not the main one.

    Raises:
        UnknownName: There is no such recipe or model.
        InputError: An argument or the data is not allowed, or another training uses ``out``. Nothing was written.
        FileError: A checkpoint or the model folder cannot be written.
        TrainingInterrupted: Ctrl-C or SIGTERM stopped the training. It left a checkpoint to resume from.
    """
    spec = registry().get(Training, recipe)
    options = {
        "out": out,
        "seed": seed,
        "resume": resume,
        "precision": precision,
        "fsdp": fsdp,
        "device": device,
        "max_steps": max_steps,
        "save_steps": save_steps,
        "per_device_batch_size": per_device_batch_size,
        "num_workers": num_workers,
        "report_to": report_to,
    }
    check_fit_options(**options)
    out = options["out"] = Path(out)
    _check_options(spec, {"pretrained": pretrained, "weights": weights, "transforms": transforms or None})
    name = model or spec.model
    if name is None:
        raise InputError(f"recipe {recipe!r} needs a model: name one, such as {spec.micro!r} for a trial")
    name, pretrained = split_random(name, pretrained)
    others = {other.data: f"recipe {other.name!r}" for other in reversed(registry().declared(Training))}
    check_kind(data, spec.data, f"recipe {recipe!r}", others)
    _check_out(out, Path(data), resume)
    if "num_classes" in (model_kwargs or {}):
        raise InputError("model_kwargs has num_classes, which follows from the data; leave it out")
    preset, config = choose_preset(spec, name, preset)
    changes = {key: str(value) for key, value in (settings or {}).items()}
    notes: list[str] = []
    config = override(config, changes, say=notes.append)
    job = Job(
        recipe=recipe,
        data=str(data),
        out=out,
        model=name,
        preset=preset,
        settings=changes,
        config=config,
        pretrained=("pretrained" in spec.options) if pretrained is None else pretrained,
        weights=None if weights is None else str(weights),
        model_kwargs=dict(model_kwargs or {}),
        transforms=tuple(transforms),
        seed=seed,
        skip_unreadable=skip_unreadable,
        options=options,
        notes=notes,
    )
    (check_request if resume else check_new)(job)
    job.options["callbacks"] = (_reporter(job),)
    with GENERATORS:  # the recipe creates a model with random weights
        trained: Trained | None = resolve(spec.train)(job)
    if trained is not None:
        write_run(job, trained, license)
    return trained


def _reporter(job: Job) -> Any:
    """Return a callback of transformers that logs a job's notes, and writes what was asked for with each checkpoint."""
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as e:
        raise MissingDependency("training needs transformers and accelerate: install plm-core[train]") from e

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                for note in job.notes:
                    _log.warning("%s", note)

        def on_checkpoint(self) -> None:
            write_request(job)

    return Reporter()


def _check_out(out: Path, data: Path, resume: bool) -> None:
    """Refuse a folder in which a training would overwrite something, or would become a part of its own data."""
    if data.is_dir() and data.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"out {str(out)!r} lies in the data {str(data)!r}, which would then hold it: choose another")
    check_not_in_use(out)
    if any(out.glob("checkpoint-*")):  # it belongs to a training, and `check_request` and `check_new` speak of those
        return
    if (out / CONFIG_FILE).exists() and not resume:
        raise InputError(f"out {str(out)!r} holds a model already: choose another folder")
    if present := [name for name in PUSHED if (out / name).exists()]:
        raise InputError(f"out {str(out)!r} has files that would be overwritten ({', '.join(present)}): choose another")
    if others := _foreign(out):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise InputError(
            f"out {str(out)!r} is neither empty nor the folder of a training: it holds {', '.join(others[:3])}{more}; "
            "choose another"
        )


def _foreign(folder: Path) -> list[str]:
    """Return the names of what is in a folder and does not belong to a training that was just begun."""
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as e:
        raise FileError(f"cannot write to the folder {str(folder)!r}: {e.strerror}") from e
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in ALLOWED)]


def _check_options(spec: Training, given: Mapping[str, Any]) -> None:
    """Refuse options that the recipe does not have."""
    for name, value in given.items():
        if value is not None and name not in spec.options:
            raise InputError(f"{name} {value!r} is not for recipe {spec.name!r}, which has no such option")


def choose_preset(spec: Training, model: str, preset: str | None) -> tuple[str, Any]:
    """Return the name and the config of a preset, by its name or for a model.

    Raises:
        InputError: There is no such preset, or none for the model.
    """
    configs: Mapping[str, Any] = resolve(spec.configs)
    if preset is None:
        architecture = architecture_of(model)
        preset = next((name for pattern, name in spec.presets.items() if fnmatchcase(architecture, pattern)), None)
        if preset is None:
            raise InputError(
                f"recipe {spec.name!r} has no preset for model {model!r}; choose one: {', '.join(configs)}"
            )
    if preset not in configs:
        raise InputError(f"preset {preset!r} is not allowed for recipe {spec.name!r}: {', '.join(configs)} are")
    return preset, configs[preset]
