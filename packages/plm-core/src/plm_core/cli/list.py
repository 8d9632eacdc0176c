"""``plm list``: models by name."""

from __future__ import annotations

import shlex
from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from plm_core.cli.light import LightCommand
from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.errors import UnknownName
from plm_core.hookspecs import Model
from plm_core.registry import Entry, registry
from plm_core.timm_bridge import timm_names
from plm_core.utils.near_misses import miss
from plm_core.utils.text import millions, natural_key

app = typer.Typer(add_completion=False)


# The patterns are arguments without a parameter, so that all parameters are flags (see cli.light).
@app.command(cls=LightCommand, options_metavar="[OPTIONS] [PATTERN]...", context_settings={"allow_extra_args": True})
def _list(
    ctx: typer.Context,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="List only models with weights, one row for each set of weights.")
    ] = False,
    timm: Annotated[
        bool, typer.Option("--timm", help="Include timm's own models. Importing timm takes seconds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List all models, or those that match a pattern.

    A pattern is a name with wildcards, such as 'hiera_*'.
    """
    patterns = ctx.args
    models = sorted(registry().all(Model).items(), key=lambda item: natural_key(item[0]))
    entries = [entry for name, entry in models if _matches(name, patterns)]
    rows = [row for entry in entries for row in _list_rows(entry, pretrained)]
    if timm:
        from plm_core.models import list_models

        ours = {model.name for model in registry().declared(Model)}
        for name in list_models(patterns or "", pretrained=pretrained):
            if name.partition(".")[0] not in ours:
                rows.append(dict.fromkeys(rows[0] if rows else ("model", "from"), "") | {"model": name, "from": "timm"})
    if not entries and not rows and patterns:
        theirs = sum(_matches(name, patterns) for name in timm_names())
        if theirs:
            command = shlex.join(["plm", "list", "--timm", *patterns])
            raise UnknownName(f"no plug-in has a model {patterns[0]!r}; timm has {theirs} that match: {command}")
        raise UnknownName(miss("model", patterns[0], registry().all(Model)))
    show(rows, as_json)


def _matches(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _list_rows(entry: Entry[Model], pretrained: bool) -> list[dict[str, Any]]:
    model = entry.declaration
    size = "x".join(map(str, model.input.shape))
    base = {"model": model.name, "from": entry.distribution, "params": millions(model.params), "input": size}
    if pretrained:
        return [
            base | {"model": f"{model.name}.{p.tag}", "license": p.license, "weights": p.repo or "shipped"}
            for p in model.pretrained
        ]
    return [base | {"task": model.task, "tags": [p.tag for p in model.pretrained]}]
