"""The command line ``plm``. Plug-ins declare its sub-commands, which are imported when they are called.

stdout is data, stderr is everything else. An expected error is printed as one line, and the exit code is 2.
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
        """Return the names of the declared commands."""
        return list(registry().all(Command))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in with the declared help, which is enough for the list in ``plm --help``."""
        return typer.core.TyperCommand(cmd_name, help=_literal(registry().get(Command, cmd_name).help))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """Return the name of a command, the command itself and the arguments that are left for it.

        Raises:
            UnknownName: There is no such command. The message gives similar names and the distribution that would
                provide it.
        """
        spec = registry().get(Command, args[0])
        implementation = resolve(spec.implementation)
        if not isinstance(implementation, typer.Typer):
            app = typer.Typer(add_completion=False)
            app.command(name=spec.name, help=_literal(spec.help), cls=LightCommand)(implementation)
            implementation = app
        return spec.name, typer.main.get_command(implementation), args[1:]


def _literal(text: str) -> str:
    """Escape ``[brackets]``, which typer would read as rich's markup, so that it prints them."""
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
    """Create, load, convert, combine and compare the vision models of one family."""


def main() -> None:
    """Run the command line; this is the entry point of the console script."""
    logging.getLogger("huggingface_hub").propagate = False  # it prints its lines itself
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="plm: %(message)s")
    # The options that set up shell completion are not plain flags (see plm_core.cli.light). They exist only when no
    # command is named, so that they slow down no command.
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
