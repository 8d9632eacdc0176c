"""``plm check-data``: what is wrong with the data of a language model, before it is trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.errors import escaped
from plm_core.lm.data.checking import DataReport, check_data


def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A .jsonl file, a folder of *chunk.<n>*.jsonl files, tar shards of webdataset, hf:name, or a registry "
            "(.yaml) that names several of these.",
        ),
    ],
    media: Annotated[bool, typer.Option("--media", help="Open each image and video, too.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Number of faults that are listed; all are counted.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Count the rows of each kind, and list all faults with their lines. The exit code is 1 when there are faults."""
    report = check_data(source, media=media, limit=limit)
    if as_json:
        print(json.dumps({**asdict(report), "faulty": report.faulty}, indent=2))
    else:
        _print(report)
    if report.faulty:
        raise typer.Exit(1)


def _print(report: DataReport) -> None:
    show(
        [
            {"dataset": dataset.name, "kind": kind, "rows": count}
            for dataset in report.datasets
            for kind, count in [*dataset.kinds.items(), ("faulty", dataset.faulty)]
            if count
        ]
    )
    for fault in report.faults:
        print(f"fault: {escaped(fault)}")
    if report.faulty > len(report.faults):
        print(f"faults that are not listed: {report.faulty - len(report.faults)}")
