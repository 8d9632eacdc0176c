"""``plm push``: publish a model folder on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.table import show


def push(
    folder: Annotated[Path, typer.Argument(help="Folder with model.safetensors, config.json and README.md.")],
    repo: Annotated[
        str, typer.Argument(help="Repository on the Hub, as org/name. It is created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the folder, list the files that would be sent, and send nothing.")
    ] = False,
) -> None:
    """Publish a model folder: safetensors, config and model card, nothing else."""
    from plm_core.hub import check_push
    from plm_core.hub import push as push_folder

    if dry_run:
        show([{"file": path.name, "bytes": path.stat().st_size} for path in check_push(folder, repo)])
        typer.echo(f"nothing was sent; without --dry-run these files go to {repo}", err=True)
        return
    print(push_folder(folder, repo, private=private))
