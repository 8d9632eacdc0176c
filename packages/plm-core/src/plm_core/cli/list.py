"""Commands that look and change nothing; none but ``matrix`` (and ``list --timm``) imports torch or timm."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Annotated, Any

import typer

from plm_core import timm_bridge
from plm_core.cli import LightCommand
from plm_core.cli.table import millions, show
from plm_core.errors import UnknownName
from plm_core.hookspecs import Input, Model, Pretrained
from plm_core.names import installed, miss, natural_key
from plm_core.registry import Entry, registry

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


list_ = typer.Typer(add_completion=False)


# The patterns are arguments without a parameter, so that this command keeps to flags (see cli._LightHelp).
@list_.command(cls=LightCommand, options_metavar="[OPTIONS] [PATTERN]...", context_settings={"allow_extra_args": True})
def _list(
    ctx: typer.Context,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="One row for each set of weights.")] = False,
    timm: Annotated[bool, typer.Option("--timm", help="timm's own models too (imports timm: seconds).")] = False,
    as_json: Json = False,
) -> None:
    """List models by name, timm's wildcards allowed."""
    patterns = ctx.args
    found = sorted(registry().all(Model).items(), key=lambda item: natural_key(item[0]))
    entries = [entry for name, entry in found if _matches(name, patterns)]
    rows = [row for entry in entries for row in _list_rows(entry, pretrained)]
    if timm:
        from plm_core.models import list_models

        ours = {entry.declaration.name for entry in registry().all(Model).values()}
        for name in list_models(patterns or "", pretrained=pretrained):
            if name.partition(".")[0] not in ours:
                rows.append(dict.fromkeys(rows[0] if rows else ("model", "from"), "") | {"model": name, "from": "timm"})
    if not entries and not rows and patterns:
        raise UnknownName(miss("model", patterns[0], registry().all(Model)))
    show(rows, as_json)


def _matches(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _list_rows(entry: Entry[Model], pretrained: bool) -> list[dict[str, Any]]:
    model = entry.declaration
    size = shape(model.input)
    base = {"model": model.name, "from": entry.distribution, "params": millions(model.params), "input": size}
    if pretrained:
        return [
            base | {"model": f"{model.name}.{p.tag}", "license": p.license, "weights": p.repo or "shipped"}
            for p in model.pretrained
        ]
    return [base | {"task": model.task, "tags": [p.tag for p in model.pretrained]}]


def info(
    name: Annotated[str, typer.Argument(help="A model of the hub, with or without tag.")], as_json: Json = False
) -> None:
    """Show everything declared about a model."""
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
        "input": f"{shape(model.input)}, {model.input.interpolation}, crop {model.input.crop_pct}",
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


def shape(spec: Input) -> str:
    """``3x224x224``, or ``3x16x224x224`` of a video model."""
    channels, *size = spec.size
    return "x".join(map(str, [channels, *([spec.frames] if spec.frames else []), *size]))


def find_model(name: str) -> Model:
    """A declared model; of timm's own, which are not declared, the error says so."""
    try:
        return registry().get(Model, name)
    except UnknownName:
        if name in timm_bridge.timm_names():
            raise UnknownName(f"model {name!r} is timm's own; the hub declares nothing about it") from None
        raise


def _weights_lines(p: Pretrained) -> list[str]:
    use = "NON-COMMERCIAL USE ONLY" if timm_bridge.NON_COMMERCIAL.search(p.license) else ""
    where = f"hf-hub:{p.repo}@{p.revision or 'main'}, {p.file}" if p.repo else f"shipped, {p.file.partition(':')[2]}"
    scores = ", ".join(f"{what}: {score:g}" for what, score in p.metrics.items())
    return list(
        filter(None, [f"{where} (layout {p.layout or 'native'})", f"license {p.license} {use}".strip(), scores, p.note])
    )


def doctor(as_json: Json = False) -> None:
    """Check the installation; exit code 1 when something needs mending."""
    hub = registry()
    taken = timm_bridge.timm_names()
    clashes = [
        f"model {name!r} of {entry.distribution} is timm's own name and is left out of timm's registry; rename it"
        for name, entry in hub.all(Model).items()
        if name in taken
    ]
    problems = hub.withdrawn() + clashes
    versions = {
        name: _version(name) for name in ("plm-core", "torch", "torchvision", "timm", "huggingface-hub", "safetensors")
    }
    if as_json:
        plugins = [status.as_dict() for status in hub.statuses]
        print(
            json.dumps(
                {"python": platform.python_version(), "versions": versions, "plugins": plugins, "problems": problems},
                indent=2,
            )
        )
    else:
        show(
            [
                {"what": "python", "version": platform.python_version()},
                *({"what": k, "version": v} for k, v in versions.items()),
            ]
        )
        show([_status_row(status) for status in hub.statuses])
        for problem in problems:
            print(f"problem: {problem}")
    if problems or not all(status.healthy for status in hub.statuses):
        raise typer.Exit(1)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "NOT installed"


def _status_row(status: Any) -> dict[str, Any]:
    faults = [*status.errors]
    if status.heavy:
        faults.append(f"importing it loads {' and '.join(status.heavy)}: name code by strings instead")
    return {
        "plug-in": status.name,
        "distribution": f"{status.distribution} {status.version}",
        "state": status.state,
        "declares": status.declares,
        "problem": "; ".join(faults),
        "mend": status.mend,
    }


def matrix(as_json: Json = False) -> None:
    """Try every transform, merger and scorer on every family, and show what works and why the rest does not."""
    from plm_core.matrix import compute, fold

    rows = compute()
    show(rows if as_json else fold(rows, "scorer"), as_json, title="what combines with what")
    if any(str(cell).startswith("ERROR") for row in rows for cell in row.values()):
        raise typer.Exit(1)
