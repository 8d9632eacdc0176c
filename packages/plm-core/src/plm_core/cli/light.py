"""Commands that do not make typer import pydantic, and whose help gives flags no type."""

from __future__ import annotations

from typing import Any

import typer
import typer.core


class LightHelp:
    """A mixin that gives ``--help`` a boolean default.

    Typer imports pydantic to convert the value of every parameter that is not a boolean flag, whether the parameter is
    used or not. That import takes longer than everything that ``plm list`` does. The default of typer's own ``--help``
    is None, so every command would pay for it.
    """

    def get_help_option(self, ctx: Any) -> Any:
        """Return the help option."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default, option.metavar = False, ""
        return option


class LightCommand(LightHelp, typer.core.TyperCommand):
    """A command that imports pydantic only if its own parameters need it, and whose help gives flags no type."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for option in self.params:
            if getattr(option, "is_flag", False):
                option.metavar = ""


class RayCommand(LightCommand):
    """A command whose option ``--ray`` may stand without an address. A cluster is then started on this machine."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, with ``--ray=local`` for ``--ray`` before another option or at the end."""
        following = [*args[1:], "--"]
        pairs = zip(args, following, strict=False)  # there may be no words at all
        args = ["--ray=local" if arg == "--ray" and after.startswith("-") else arg for arg, after in pairs]
        return super().parse_args(ctx, args)
