"""The console script ``parc``, with the commands that ``plm`` has too."""

from __future__ import annotations

import logging
import sys

import typer
import typer.core

from parc.cli import probe, rank
from plm_core.errors import PlmError


def main() -> None:
    """Run the console script ``parc``."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="parc: %(message)s")
    command = typer.core.TyperGroup(
        name="parc",
        commands={"rank": typer.main.get_command(rank.app), "probe": typer.main.get_command(probe.app)},
        no_args_is_help=True,
        help="Which of these models should I fine-tune on my data?",
    )
    try:
        command()
    except PlmError as e:
        print(f"parc: error: {e}", file=sys.stderr)
        sys.exit(2)
