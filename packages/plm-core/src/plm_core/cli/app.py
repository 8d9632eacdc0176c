"""The command line ``plm``: its sub-commands are declared by plug-ins and imported when they are called.

stdout is data, stderr is everything else; what goes wrong on purpose is one line and exit code 2.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import typer
import typer.core

from plm_core import __version__
from plm_core.cli.light import LightCommand, LightHelp
from plm_core.errors import PlmError
from plm_core.hookspecs import Command
from plm_core.registry import registry
from plm_core.utils.references import resolve


class PluginCommands(LightHelp, typer.core.TyperGroup):
    """A group that lists declared commands without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the declared commands."""
        return list(registry().all(Command))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in with the declared help, enough for the list in ``plm --help``."""
        return typer.core.TyperCommand(cmd_name, help=_literal(registry().get(Command, cmd_name).help))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """The real command; a miss says what is near and which distribution would provide it."""
        spec = registry().get(Command, args[0])
        implementation = resolve(spec.implementation)
        if not isinstance(implementation, typer.Typer):
            app = typer.Typer(add_completion=False)
            app.command(name=spec.name, help=_literal(spec.help), cls=LightCommand)(implementation)
            implementation = app
        return spec.name, typer.main.get_command(implementation), args[1:]


def _literal(text: str) -> str:
    """``text`` as typer must get it to show ``[brackets]``, which it reads as rich's markup, as they are."""
    if "[" not in text:
        return text
    from rich.markup import escape

    return escape(text)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"plm-core {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
) -> None:
    """One hub for a family of vision models: create, load, convert, combine, compare."""


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="plm: %(message)s")
    # The options that set up shell completion are not plain flags (see plm_core.cli.light). They exist only when no
    # command is named, so that no command pays for them.
    names_command = len(sys.argv) > 1 and not sys.argv[1].startswith("-")
    app = typer.Typer(
        cls=PluginCommands,
        add_completion=not names_command or "_PLM_COMPLETE" in os.environ,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    try:
        app()
    except PlmError as e:
        print(f"plm: error: {e}", file=sys.stderr)
        sys.exit(2)
