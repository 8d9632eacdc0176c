"""``plm hiera``: the papers' trainings from the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_core.cli.table import show
from plm_core.errors import InputError


class Task(StrEnum):
    """What to train."""

    PRETRAIN = "pretrain"
    PRETRAIN_VIDEO = "pretrain-video"
    FINETUNE = "finetune"
    FINETUNE_VIDEO = "finetune-video"
    DETECT = "detect"


def train(
    task: Annotated[Task, typer.Argument(help="What to train.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="pretrain: a folder of class folders; finetune: one with train/ and val/ of such; detect: train/ and "
            "val/ of images, train.json and val.json in COCO's format."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints and weights.")],
    size: Annotated[str, typer.Option("--size", help="A size of the papers, as base; or micro, to try it.")] = "base",
    encoder: Annotated[
        Path | None, typer.Option("--encoder", help="Pretrained encoder (finetune, detect); none to start anew.")
    ] = None,
    abs_win: Annotated[bool, typer.Option("--abs-win", help="Absolute Win positions (images).")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change the paper's recipe, as epochs=100 or lr=1e-3; repeat.")
    ] = None,
    device_batch: Annotated[int | None, typer.Option("--device-batch", help="What a device takes at once.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes per device that load data.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard parameters over the devices.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    save_steps: Annotated[int, typer.Option("--save-steps", help="Steps between checkpoints.")] = 1000,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after so many steps.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
) -> None:
    """Train Hiera by the papers' recipes; for several devices, under ``torchrun --no-python``."""
    changes = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} is not name=value")
        changes[name] = value
    if precision not in ("fp32", "bf16", "fp16"):
        raise InputError(f"--precision {precision!r} is not allowed: fp32, bf16 and fp16 are")
    from hiera import train as trainings

    kind, _, video = task.value.partition("-")
    arguments: dict[str, Any] = {
        "config": {"abs_win_pos_embed": True} if abs_win and kind != "detect" else {},
        "device_batch": device_batch,
        "workers": workers,
        "precision": precision,
        "fsdp": fsdp,
        "resume": resume,
        "save_steps": save_steps,
        "max_steps": max_steps,
        "seed": seed,
    }
    if kind != "detect":
        arguments["video"] = bool(video)
    if kind != "pretrain":
        arguments["encoder"] = encoder
    scores = getattr(trainings, kind)(data, out, size, changes, **arguments)
    show([{"what": what, "score": round(score, 4), "folder": str(out)} for what, score in scores.items()])
