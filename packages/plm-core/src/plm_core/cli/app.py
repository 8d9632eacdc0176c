"""The command line ``plm``. Plug-ins declare its sub-commands, which are imported when they are called.

stdout is data, stderr is everything else. An expected error is printed as one line, and the exit code is 2. So are
wrong words and a stdout that cannot be written.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer
import typer.core

from plm_core import __version__
from plm_core.cli.light import LightCommand, LightHelp
from plm_core.errors import FileError, InputError, PlmError
from plm_core.hookspecs import Command
from plm_core.registry import registry
from plm_core.utils.references import resolve
from plm_core.utils.text import shown

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""The errors of a stdout that cannot be written: a closed pipe, a full disk, a limit, a broken device."""


class PluginCommands(LightHelp, typer.core.TyperGroup):
    """A group that lists declared commands without importing them, and reports wrong words as one of our errors."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the words before the command.

        Raises:
            InputError: They are wrong.
        """
        with _usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Parse the words of the command and run it.

        Raises:
            InputError: They are wrong.
        """
        with _usage_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the declared commands."""
        return list(registry().all(Command))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in with the declared help, which is enough for the list in ``plm --help``."""
        text = shown(registry().get(Command, cmd_name).help, 300)
        return typer.core.TyperCommand(cmd_name, help=_literal(text))

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


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn typer's errors about the words of the command line, which it prints as boxes, into one line."""
    try:
        yield
    except typer.TyperException as e:
        if type(e).__name__ == "NoArgsIsHelpError":  # its message is the help text, which typer prints
            raise
        context = getattr(e, "ctx", None)
        where = f" (see {context.command_path} --help)" if context else ""
        raise InputError(f"{' '.join(e.format_message().split()).rstrip('.')}{where}") from None


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
    _open_closed_streams()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="plm: %(message)s")
    # The options that set up shell completion are not plain flags (see plm_core.cli.light). They exist only when no
    # command is named, so that they slow down no command.
    sys.argv[1:] = map(_expand_home, sys.argv[1:])
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
        try:
            app(prog_name="plm")
        finally:
            sys.stdout.flush()  # here, where an error can still be reported
    except PlmError as e:
        _fail(e)
    except OSError as e:
        if e.filename is not None:  # a path that the system refuses: too long, forbidden, links in a circle
            _fail(FileError(f"path {e.filename!r}: {e.strerror}"))
        if e.errno not in UNWRITABLE:
            raise
        with suppress(OSError, ValueError):  # what is left in the buffer would fail again when Python exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if e.errno == errno.EPIPE:  # the reader, such as head, has seen enough
            sys.exit(1)
        _fail(FileError(f"cannot write to stdout: {e.strerror}"))


def _expand_home(word: str) -> str:
    """Expand ``~`` where a shell did not, that is in quotes and in ``--out=~/x``."""
    option, equals, path = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{os.path.expanduser(path)}"


def _fail(error: PlmError) -> NoReturn:
    print(f"plm: error: {shown(str(error), 2000)}", file=sys.stderr)
    sys.exit(2)


def _open_closed_streams() -> None:
    """Give a process without stdout or stderr (``>&-``) one that leads nowhere, since many libraries expect one."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
