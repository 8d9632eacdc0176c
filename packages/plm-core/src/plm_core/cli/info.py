"""``plm info``: everything that is declared about a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.errors import UnknownName
from plm_core.hookspecs import Model, Pretrained
from plm_core.registry import registry
from plm_core.timm_bridge import timm_names
from plm_core.utils.licenses import is_non_commercial
from plm_core.utils.near_misses import miss
from plm_core.utils.requirements import installed


def info(
    name: Annotated[str, typer.Argument(help="Name of a model, with or without tag (see plm list).")],
    as_json: Json = False,
) -> None:
    """Show everything that is declared about a model."""
    arch, _, tag = name.partition(".")
    model = find_model(arch)
    tags = [p.tag for p in model.pretrained]
    if tag and tag not in tags:
        raise UnknownName(miss(f"tag of model {arch!r} named", tag, tags))
    weights = [p for p in model.pretrained if tag in ("", p.tag)]
    if as_json:
        print(json.dumps({**asdict(model), "pretrained": [asdict(p) for p in weights]}, indent=2, default=str))
        return
    needs = [f"{need} ({'installed' if installed(need) else 'NOT installed'})" for need in model.needs]
    facts = {
        "model": model.name,
        "family": model.family,
        "from": registry().all(Model)[arch].distribution,
        "task": model.task,
        "parameters": f"{model.params:,}",
        "input": f"{'x'.join(map(str, model.input.shape))}, {model.input.interpolation}, crop {model.input.crop_pct}",
        "mean / std": f"{model.input.mean} / {model.input.std}",
        "classes": model.num_classes,
        "needs": needs or "nothing more",
        "license of the code": model.license or "not stated",
        "paper": model.paper,
    }
    rows = [{"": key, " ": value} for key, value in facts.items()]
    for p in weights:
        rows += [{"": f"weights .{p.tag}", " ": line} for line in _weights_lines(p)]
    show(rows)


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


def _weights_lines(p: Pretrained) -> list[str]:
    use = "NON-COMMERCIAL USE ONLY" if is_non_commercial(p.license) else ""
    where = f"hf-hub:{p.repo}@{p.revision or 'main'}, {p.file}" if p.repo else f"shipped, {p.file.partition(':')[2]}"
    scores = ", ".join(f"{what}: {score:g}" for what, score in p.metrics.items())
    return list(
        filter(None, [f"{where} (layout {p.layout or 'native'})", f"license {p.license} {use}".strip(), scores, p.note])
    )
