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
            help="pretrain: a folder of class folders; finetune: one with train/ and val/ of such; detect: one with "
            "train/ and val/, each of images/ and instances.json in COCO's format."
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
    device_batch: Annotated[
        int | None, typer.Option("--device-batch", min=1, help="What a device takes at once.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes per device that load data.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard parameters over the devices.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    save_steps: Annotated[int, typer.Option("--save-steps", min=1, help="Steps between checkpoints.")] = 1000,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop after so many steps.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
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
    kind, _, video = task.value.partition("-")
    if encoder is not None and kind == "pretrain":
        raise InputError("--encoder is for finetune and detect; a pretraining starts anew")
    if abs_win and (video or kind == "detect"):
        raise InputError("--abs-win is for pretrain and finetune; a detector has these positions, a video has others")
    from hiera.recipes import folders

    arguments: dict[str, Any] = {
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
        arguments |= {"video": bool(video), "abs_win": abs_win}
    if kind != "pretrain":
        arguments["encoder"] = encoder
    scores = getattr(folders, kind)(data, out, size, changes, **arguments)
    show([{"what": what, "score": round(score, 4), "folder": str(out)} for what, score in scores.items()])
