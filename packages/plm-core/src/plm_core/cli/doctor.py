"""``plm doctor``: check the installation and every plug-in."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.timm_bridge import timm_names
from plm_core.utils.references import shipped_file
from plm_core.utils.text import describe


def doctor(as_json: Json = False) -> None:
    """Check the installation and every plug-in. The exit code is 1 when something needs fixing."""
    reserved = timm_names()
    clashes = [
        f"model {name!r} of {entry.distribution} is timm's own name and is left out of timm's registry; rename it"
        for name, entry in registry().all(Model).items()
        if name in reserved
    ]
    problems = registry().withdrawn() + clashes + _missing_files()
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


def _missing_files() -> list[str]:
    """Return a line for each set of weights whose file should be shipped inside a distribution and is not there."""
    missing = []
    for name, entry in registry().all(Model).items():
        for weights in entry.declaration.pretrained:
            try:
                if weights.repo is not None or shipped_file(weights.file).is_file():
                    continue
                why = "is missing"
            except Exception as e:  # importlib may fail in many ways on a package that is only half there
                why = f"cannot be found ({describe(e)})"
            missing.append(f"file {weights.file!r} of model {name}.{weights.tag} {why}; reinstall {entry.distribution}")
    return missing


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
