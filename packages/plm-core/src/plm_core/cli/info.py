"""``plm info``: what is known about a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.errors import PlmError, UnknownName
from plm_core.hookspecs import Model, Pretrained
from plm_core.registry import registry
from plm_core.timm_bridge import timm_names
from plm_core.utils.licenses import is_non_commercial
from plm_core.utils.near_misses import miss
from plm_core.utils.requirements import installed


def info(
    name: Annotated[
        str,
        typer.Argument(help="A model of a plug-in or of timm, with or without tag, or whatever plm predict takes."),
    ],
    as_json: Json = False,
) -> None:
    """Show what is known about a model: its facts, its weights, and what works on it.

    The model is created without weights to find out which weight layouts and transforms work. The exit code is 1 when
    it cannot be created, or when the code of a layout or a transform fails.
    """
    arch, _, tag = name.partition(".")
    entry = registry().all(Model).get(arch)
    model = entry.declaration if entry else None
    tags = [p.tag for p in model.pretrained] if model else []
    if model and tag and tag not in tags:
        raise UnknownName(miss(f"tag of model {arch!r} named", tag, tags))
    weights = [p for p in model.pretrained if tag in ("", p.tag)] if model else []
    from plm_core.tools.folders import folder_facts
    from plm_core.tools.inspection import inspect  # imports torch; not before the name is known to be right

    problems, made = list[str](), dict[str, Any]()
    try:
        made = inspect(name)
        problems = made.pop("faults")
    except PlmError as e:  # what is declared can be shown all the same
        if model is None:
            raise
        problems = [str(e)]
    of_folder = {} if model else folder_facts(name)
    if as_json:
        declared = {**asdict(model), "pretrained": [asdict(p) for p in weights]} if model else {"name": name}
        found = declared | made | of_folder | ({"problems": problems} if problems else {})
        print(json.dumps(found, indent=2, default=str))
        raise typer.Exit(1 if problems else 0)
    facts = {"model": name} | (_declared(model, entry.distribution) if model and entry else _found(name, made))
    facts |= _made(made) | of_folder
    rows = [{"fact": fact, "value": value} for fact, value in facts.items()]
    rows += [{"fact": f"weights .{p.tag}", "value": line} for p in weights for line in _weights_lines(p)]
    show([*rows, *({"fact": "problem", "value": problem} for problem in problems)])
    if problems:
        raise typer.Exit(1)


def find_model(name: str) -> Model:
    """Return a declared model.

    Raises:
        UnknownName: No plug-in declares it. The message says if it is one of timm's own models.
    """
    try:
        return registry().get(Model, name)
    except UnknownName:
        if name in timm_names():
            raise UnknownName(f"model {name!r} is timm's own; no plug-in declares it") from None
        raise


def _declared(model: Model, distribution: str) -> dict[str, Any]:
    needs = [f"{need} ({'installed' if installed(need) else 'NOT installed'})" for need in model.needs]
    return {
        "family": model.family,
        "from": distribution,
        "task": model.task,
        "parameters": f"{model.params:,}",
        "input": f"{'x'.join(map(str, model.input.shape))}, {model.input.interpolation}, crop {model.input.crop_pct}",
        "mean / std": f"{model.input.mean} / {model.input.std}",
        "classes": model.num_classes,
        "needs": needs or "nothing more",
        "license of the code": model.license or "not stated",
        "paper": model.paper,
    }


def _found(name: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a model that no plug-in declares."""
    facts: dict[str, Any] = {"from": name.partition(":")[0] if ":" in name else made["class"].partition(".")[0]}
    if "input_size" in made:
        facts |= {
            "input": "x".join(map(str, made["input_size"])),
            "mean / std": f"{made['mean']} / {made['std']}",
        }
    return facts | ({"weights": made["tags"]} if made["tags"] else {})


def _made(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model itself tells. It replaces what is declared, such as the classes of the default weights."""
    if not made:
        return {}
    return {
        "parameters": f"{made['parameters']:,}",
        "classes": made["classes"],
        "class": made["class"],
        "layouts": made["layouts"],
        **{f"transform {transform}": verdict for transform, verdict in made["transforms"].items()},
    }


def _weights_lines(p: Pretrained) -> list[str]:
    use = "NON-COMMERCIAL USE ONLY" if is_non_commercial(p.license) else ""
    where = f"hf-hub:{p.repo}@{p.revision or 'main'}, {p.file}" if p.repo else f"shipped, {p.file.partition(':')[2]}"
    scores = ", ".join(f"{what}: {score:g}" for what, score in p.metrics.items())
    return list(
        filter(None, [f"{where} (layout {p.layout or 'native'})", f"license {p.license} {use}".strip(), scores, p.note])
    )
