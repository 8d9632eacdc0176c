"""``plm push``: publish a model folder on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    folder: Annotated[Path, typer.Argument(help="Folder with model.safetensors, config.json and README.md.")],
    repo: Annotated[
        str, typer.Argument(help="Repository on the Hub, as org/name. It is created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Publish a model folder: safetensors, config and model card, nothing else."""
    from plm_core.hub import push as push_folder

    print(push_folder(folder, repo, private=private))
