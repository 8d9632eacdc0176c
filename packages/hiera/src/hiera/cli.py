"""The command ``plm hiera``, which trains models by the papers' recipes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_core.cli.options import Seed
from plm_core.cli.table import show
from plm_core.errors import InputError


class Task(StrEnum):
    """A training that the papers describe."""

    PRETRAIN = "pretrain"
    PRETRAIN_VIDEO = "pretrain-video"
    FINETUNE = "finetune"
    FINETUNE_VIDEO = "finetune-video"
    DETECT = "detect"


def train(
    task: Annotated[Task, typer.Argument(help="Training task to run.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="Data folder. For pretrain and pretrain-video: one folder per class (the labels are not used). For "
            "finetune and finetune-video: train/ and val/, each with one folder per class. For detect: train/ and "
            "val/, each with images/ and instances.json in COCO's format."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints and weights.")],
    size: Annotated[
        str,
        typer.Option(
            "--size",
            help="Model size: tiny, small, base, base_plus, large or huge as in the papers, or micro for a trial.",
        ),
    ] = "base",
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder", help="File with pretrained encoder weights. If absent, training starts from random weights."
        ),
    ] = None,
    abs_win: Annotated[
        bool, typer.Option("--abs-win", help="Use Absolute Win position embeddings (for images only).")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A recipe setting to override, such as epochs=100 or lr=1e-3. May be repeated."),
    ] = None,
    per_device_batch_size: Annotated[
        int | None,
        typer.Option(
            "--per-device-batch-size",
            min=1,
            help="Samples per device in one forward pass. Gradients are accumulated up to the recipe's batch size.",
        ),
    ] = None,
    num_workers: Annotated[
        int,
        typer.Option(
            "--num-workers", min=0, help="Data-loading processes per device (0: the main process loads the data)."
        ),
    ] = 0,
    precision: Annotated[str, typer.Option("--precision", help="Precision: fp32, bf16 or fp16.")] = "fp32",
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard the parameters over the devices.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in --out.")] = False,
    save_steps: Annotated[int, typer.Option("--save-steps", min=1, help="Steps between checkpoints.")] = 1000,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps",
            min=1,
            help="Stop after this many optimiser steps. The schedule stays that of the whole training.",
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train Hiera by the papers' recipes. To use several devices, run the command under ``torchrun --no-python``."""
    changes = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} is not name=value")
        changes[name] = value
    if precision not in ("fp32", "bf16", "fp16"):
        raise InputError(f"--precision {precision!r} is not allowed: fp32, bf16 and fp16 are")
    kind, _, video = task.value.partition("-")
    if encoder is not None and kind == "pretrain":
        raise InputError("--encoder is for finetune and detect; a pretraining starts from scratch")
    if abs_win and (video or kind == "detect"):
        raise InputError(
            "--abs-win is for pretrain and finetune; detectors always use it, and videos have other positions"
        )
    from hiera.recipes import folders

    arguments: dict[str, Any] = {
        "per_device_batch_size": per_device_batch_size,
        "num_workers": num_workers,
        "precision": precision,
        "fsdp": fsdp,
        "resume": resume,
        "save_steps": save_steps,
        "max_steps": max_steps,
        "seed": seed,
    }
    if kind != "detect":
        arguments |= {"video": bool(video), "abs_win": abs_win}
    if kind != "pretrain":
        arguments["encoder"] = encoder
    scores = getattr(folders, kind)(data, out, size, changes, **arguments)
    show([{"metric": name, "score": round(score, 4), "folder": str(out)} for name, score in scores.items()])
