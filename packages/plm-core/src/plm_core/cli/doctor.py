"""``plm doctor``: check the installation and every plug-in."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.timm_bridge import timm_names
from plm_core.tools.shipped import file_faults
from plm_core.utils.text import describe

Quick = Annotated[
    bool,
    typer.Option("--quick", help="Leave out what needs torch: to import what plug-ins name and to load their weights."),
]


def doctor(as_json: Json = False, quick: Quick = False) -> None:
    """Check the installation and every plug-in. The exit code is 1 when something needs fixing.

    The code that plug-ins name is imported, and the weights that they ship are loaded.
    """
    reserved = timm_names()
    clashes = [
        f"model {name!r} of {entry.distribution} is timm's own name and is left out of timm's registry; rename it"
        for name, entry in registry().all(Model).items()
        if name in reserved
    ]
    problems = registry().withdrawn() + clashes + (_file_faults() if quick else _all_faults())
    versions = {
        name: _version(name) for name in ("plm-core", "torch", "torchvision", "timm", "huggingface-hub", "safetensors")
    }
    if as_json:
        plugins = [status.as_dict() for status in registry().statuses]
        print(
            json.dumps(
                {"python": platform.python_version(), "versions": versions, "plugins": plugins, "problems": problems},
                indent=2,
            )
        )
    else:
        show(
            [
                {"component": "python", "version": platform.python_version()},
                *({"component": k, "version": v} for k, v in versions.items()),
            ]
        )
        show([_status_row(status) for status in registry().statuses])
        for problem in problems:
            print(f"problem: {problem}")
    if problems or not all(status.healthy for status in registry().statuses):
        raise typer.Exit(1)


def _file_faults() -> list[str]:
    """Return a line for each set of weights whose file or model card should be shipped and is not as it should be."""
    return [
        _with_mend(fault, entry.distribution)
        for entry in registry().all(Model).values()
        for weights in entry.declaration.pretrained
        for fault in file_faults(entry.declaration, weights)
    ]


def _all_faults() -> list[str]:
    """Return a line for each fault of the code and of the weights that the distributions ship."""
    try:
        from plm_core.tools.health import code_faults, weights_faults
    except Exception as e:  # a broken torch or timm is what a user looks for here
        return [*_file_faults(), f"torch and timm cannot be imported: {describe(e)}"]
    return list(code_faults()) + [
        _with_mend(fault, entry.distribution)
        for entry in registry().all(Model).values()
        for weights in entry.declaration.pretrained
        for fault in weights_faults(entry.declaration, weights)
    ]


def _with_mend(fault: str, distribution: str) -> str:
    at_fault = "reinstall" if fault.startswith("file ") else "report it to the authors of"
    return f"{fault}; {at_fault} {distribution}"


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
