"""Commands that do not make typer import pydantic."""

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
            option.default = False
        return option


class LightCommand(LightHelp, typer.core.TyperCommand):
    """A command that imports pydantic only if its own parameters need it."""
