"""What a training was asked for, as plain data: written with its first checkpoint, and compared when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from plm_core.errors import InputError
from plm_core.hub import RECORD_FILE
from plm_core.runs.job import Job
from plm_core.utils.files import write_text
from plm_core.utils.text import first_line

COMPARED = (
    *("recipe", "data", "found", "model", "model_kwargs", "pretrained", "weights", "transforms", "seed", "precision"),
    "config",
)
"""What must not change when a training is resumed. The number of workers, for one, may."""


OPTIONS = ("device", "fsdp", "max_steps", "save_steps", "per_device_batch_size", "num_workers", "report_to")
"""Options that are recorded and may change when a training is resumed."""


def request_of(job: Job) -> dict[str, Any]:
    """Return what a user asked for, as plain data without the paths of this machine."""
    config = asdict(job.config) if is_dataclass(job.config) and not isinstance(job.config, type) else {}
    return {
        "recipe": job.recipe,
        "data": last_part(job.data),
        **job.facts,
        "model": last_part(job.model),
        "preset": job.preset,
        "settings": {name: without_folder(value) for name, value in job.settings.items()},
        "model_kwargs": dict(job.model_kwargs),
        "pretrained": job.pretrained,
        "weights": None if job.weights is None else last_part(job.weights),
        "transforms": list(job.transforms),
        "seed": job.seed,
        "skip_unreadable": job.skip_unreadable,
        "precision": job.options.get("precision"),
        "config": {name: without_folder(value) for name, value in config.items()},
        "options": {name: job.options[name] for name in OPTIONS if name in job.options},
    }


def last_part(source: str) -> str:
    """Return the last part of a path: a folder that is published should not tell where somebody keeps files."""
    return Path(source).name if Path(source).exists() or source.startswith("local-dir:") else source


def without_folder(value: Any) -> Any:
    """Return a value of a setting: of a path the last part, see `last_part`, and everything else as it is."""
    return last_part(value) if isinstance(value, str) and "/" in value else value


def begin(job: Job, found: str) -> None:
    """Note what the data of a training are, and check a training that is resumed for the same data.

    A recipe calls it when it has opened the data.

    Args:
        job: The job.
        found: The data in words, such as "1437 images of 10 classes".

    Raises:
        InputError: The training that is to be resumed had other data.
    """
    job.facts["found"] = found
    if job.options.get("resume"):
        check_request(job)


def write_request(job: Job) -> None:
    """Write what was asked for into the folder of a training."""
    write_text(job.out / RECORD_FILE, json.dumps(request_of(job), indent=2, default=str) + "\n")


def check_request(job: Job) -> None:
    """Check that a training which is resumed was asked for in the same way.

    Raises:
        InputError: It was not. The message names what differs. Or there are checkpoints, and no record of what for.
    """
    if (before := _record(job)) and (different := _difference(before, job)):
        name, was, is_now = different
        raise InputError(
            f"{name} {is_now!r} is not that of the training in {str(job.out)!r}, {was!r}: resume it as it began, or "
            "choose another folder"
        )


def check_new(job: Job) -> None:
    """Check that a training which is not resumed meets no checkpoints.

    Raises:
        InputError: There are some. The message says whether they are those of this training, which can go on.
    """
    if not any(job.out.glob("checkpoint-*")):
        return
    if different := _difference(_record(job), job):
        name, was, is_now = different
        raise InputError(
            f"out {str(job.out)!r} has checkpoints of another training, with {name} {was!r} instead of {is_now!r}: "
            "choose another folder"
        )
    raise InputError(
        f"out {str(job.out)!r} has checkpoints of this training: go on with it (resume=True, or --resume), or choose "
        "another folder"
    )


def _record(job: Job) -> dict[str, Any]:
    """Return what the training in the folder of a job was asked for; empty if there is neither a record nor a training.

    Raises:
        InputError: There are checkpoints without a record.
    """
    record = job.out / RECORD_FILE
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as e:
        if any(job.out.glob("checkpoint-*")):
            why = "is missing" if isinstance(e, FileNotFoundError) else f"cannot be read ({first_line(e)})"
            raise InputError(
                f"{record} {why}, so the training in {str(job.out)!r} cannot be resumed: choose another folder"
            ) from e
        return {}
    return before


def _difference(before: Mapping[str, Any], job: Job) -> tuple[str, Any, Any] | None:
    """Return the name and both values of the first thing that differs in what was asked for, or None."""
    now = json.loads(json.dumps(request_of(job), default=str))
    for name in COMPARED:
        if name not in before or name not in now:  # what was found is not known before the data is open
            continue
        was, is_now = before[name], now[name]
        if name == "config" and isinstance(was, Mapping):
            name, was, is_now = _first_difference(was, is_now)
        if was != is_now:
            return name, was, is_now
    return None


def _first_difference(was: Mapping[str, Any], is_now: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Return the name and both values of the first setting that differs, or of any setting if none does."""
    before, now = ({**config, **(config.get("recipe") or {}), "recipe": None} for config in (was, is_now))
    name = next((key for key in now if before.get(key) != now[key]), "recipe")
    return name, before.get(name), now[name]
