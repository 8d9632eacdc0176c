"""The command line ``plm``: its sub-commands are declared by plug-ins and imported when they are called.

stdout is data, stderr is everything else; what goes wrong on purpose is one line and exit code 2.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
import typer.core

from plm_core import __version__
from plm_core.errors import PlmError
from plm_core.hookspecs import Command
from plm_core.names import resolve
from plm_core.registry import registry


class PluginCommands(typer.core.TyperGroup):
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
            app.command(name=spec.name, help=_literal(spec.help))(implementation)
            implementation = app
        return spec.name, typer.main.get_command(implementation), args[1:]


def _literal(text: str) -> str:
    """``text`` as typer must get it to show ``[brackets]``, which it reads as rich's markup, as they are."""
    if "[" not in text:
        return text
    from rich.markup import escape

    return escape(text)


app = typer.Typer(
    cls=PluginCommands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"plm-core {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """One hub for a family of vision models: create, load, convert, combine, compare."""


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="plm: %(message)s")
    try:
        app()
    except PlmError as e:
        sys.exit(_say(e))


def _say(error: PlmError) -> int:
    print(f"plm: error: {error}", file=sys.stderr)
    return 2
