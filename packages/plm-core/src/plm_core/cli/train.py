"""``plm train``: train a model by a recipe, and leave a model folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_core.cli.options import Device, Json, Seed, SkipUnreadable, Threads, Transforms
from plm_core.cli.table import show
from plm_core.errors import InputError, TrainingInterrupted
from plm_core.hookspecs import Training
from plm_core.registry import registry
from plm_core.utils.arguments import DEVICE, RANDOM
from plm_core.utils.references import resolve
from plm_core.utils.text import literal


def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe (see --list).")] = None,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Data of the recipe's kind. Images: a folder with one folder of images per class, or such folders "
            "train and val; an .npz file; or hf:name[,label=COLUMN]. Videos: a folder with one folder of videos per "
            "class, or such folders train and val. Captions: a folder with captions.jsonl or shards (.tar), such "
            "folders train and val, or one such file. Conversations: a .jsonl file, a folder with train.jsonl, or a "
            "registry (.yaml) of such files. COCO: folders train and val, each with images/ and "
            "instances.json."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the trained model and its checkpoints.")] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="List the recipes, or the settings of RECIPE by preset, and exit.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Name of the model to train, or a model folder (default: the recipe's own). The prefix random: stands "
            "for random weights.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Settings to start from (default: those that the recipe has for the model)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting to change, such as epochs=100 or lr=1e-3. May be repeated."),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--random",
            help="Start from pretrained or from random weights (default: pretrained, if the recipe can; a pretraining "
            "starts from random weights).",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Weights to start from instead: a file, hf-hub:org/name, or the name of declared weights (NAME.tag). "
            "A classifier in them is left out.",
        ),
    ] = None,
    model_kwargs: Annotated[
        list[str] | None,
        typer.Option("--model-kwargs", help="A keyword for the model, such as img_size=128. May be repeated."),
    ] = None,
    transform: Transforms = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license", help="SPDX identifier of the trained weights' licence (default: that of the starting weights)."
        ),
    ] = None,
    per_device_batch_size: Annotated[
        int | None,
        typer.Option(
            "--per-device-batch-size",
            min=1,
            help="Samples per device in one forward pass. Gradients are accumulated up to the recipe's batch_size, "
            "which recipes refuse whose loss compares all samples of a batch.",
        ),
    ] = None,
    num_workers: Annotated[
        int, typer.Option("--num-workers", min=0, help="Processes per device that load and decode the data.")
    ] = 0,
    precision: Annotated[str, typer.Option("--precision", help="Precision: fp32, bf16 or fp16.")] = "fp32",
    device: Device = DEVICE,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard the parameters over the devices.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue from the newest checkpoint in --out. If there is none, the training starts from the "
            "beginning, so a job that is restarted may always have this option.",
        ),
    ] = False,
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
    threads: Threads = None,
    skip_unreadable: SkipUnreadable = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option("--report-to", help="Tracker to log to as well: tensorboard or wandb. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model by a recipe. To use several devices, run the command under ``torchrun --no-python``."""
    if list_recipes:
        if recipe is None:
            show(_recipes(), as_json)
        else:
            _show_settings(registry().get(Training, recipe), model, preset, as_json)
        return
    missing = [name for name, value in {"RECIPE": recipe, "DATA": data, "--out": out}.items() if value is None]
    if recipe is None or data is None or out is None:
        raise InputError(f"{' and '.join(missing)} must be given; plm train --list shows the recipes")
    registry().get(Training, recipe)  # so that a wrong name fails before torch is imported
    changes, keywords = pairs(settings, "set"), pairs(model_kwargs, "model-kwargs")

    from plm_core.runs import train as run
    from plm_core.utils.devices import cpu_threads

    try:
        with cpu_threads(threads):
            trained = run(
                recipe,
                data,
                out,
                model=model,
                preset=preset,
                settings=changes,
                pretrained=pretrained,
                weights=weights,
                model_kwargs={name: literal(value) for name, value in keywords.items()},
                transforms=transform or (),
                license=license,
                seed=seed,
                skip_unreadable=skip_unreadable,
                resume=resume,
                precision=precision,
                fsdp=fsdp,
                device=device,
                max_steps=max_steps,
                save_steps=save_steps,
                per_device_batch_size=per_device_batch_size,
                num_workers=num_workers,
                report_to=report_to or (),
            )
    except TrainingInterrupted as e:
        typer.echo(f"plm: {e}: run the same command with --resume", err=True)
        raise typer.Exit(128 + e.signum) from None  # as a shell reports a command that a signal ended
    if trained is None:  # the main process reports
        return
    scores = {name: round(score, 4) for name, score in trained.scores.items()}
    show([{"metric": name, "score": score, "folder": str(out)} for name, score in scores.items()], as_json)
    typer.echo(trained.data, err=True)
    folder = shlex.quote(str(out))
    use = f"plm predict {folder} FILE" if trained.labels else f"plm train RECIPE DATA --model {folder}"
    typer.echo(f"model folder: {out.resolve()}; use it as in: {use}", err=True)


def _recipes() -> list[dict[str, Any]]:
    entries = sorted(registry().all(Training).items())
    return [
        {
            "recipe": name,
            "from": entry.distribution,
            "data": entry.declaration.data,
            "model": entry.declaration.model,
            "help": entry.declaration.help,
        }
        for name, entry in entries
    ]


def _show_settings(recipe: Training, model: str | None, preset: str | None, as_json: bool) -> None:
    """Print the settings of a recipe by preset; for people those of one preset, and how the others differ from it."""
    from plm_core.runs.running import choose_preset

    rows = _settings(recipe)
    if as_json:
        show(rows, True)
        return
    name = model or recipe.model
    if name is None and preset is None and "*" not in recipe.presets:  # the model decides, and there is none
        preset, why = list(rows[0])[1], "the first one"
    else:
        why = "as asked for" if preset else "that of most models" if name is None else f"that of {name}"
    chosen, _ = choose_preset(recipe, (name or "").removeprefix(RANDOM), preset)
    show(_folded(rows, chosen))
    typer.echo(f"preset {chosen}, {why}; --preset and --model show another", err=True)


def _settings(recipe: Training) -> list[dict[str, Any]]:
    """Return a row for each setting of a recipe, with its value in each preset."""
    from plm_core.training.overrides import settings_of

    presets = {name: settings_of(config) for name, config in resolve(recipe.configs).items()}
    names = dict.fromkeys(name for settings in presets.values() for name in settings)
    return [
        {"setting": name, **{preset: repr(settings.get(name)) for preset, settings in presets.items()}}
        for name in names
    ]


def _folded(settings: list[dict[str, Any]], chosen: str) -> list[dict[str, Any]]:
    """Return for each setting the value of a preset, and each other value with its presets."""
    folded = []
    for row in settings:
        presets: dict[str, list[str]] = {}
        for preset, value in list(row.items())[1:]:
            presets.setdefault(value, []).append(preset)
        exceptions = "; ".join(f"{value} ({', '.join(of)})" for value, of in presets.items() if chosen not in of)
        folded.append({"setting": row["setting"], chosen: row[chosen], "other presets": exceptions})
    return folded


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Split texts of the form ``name=value``.

    Raises:
        InputError: A text has another form, or a name comes twice.
    """
    split: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--{option} {text!r} is not of the form name=value")
        if name in split:
            raise InputError(f"--{option} {name!r} is given twice")
        split[name] = value
    return split
