"""Commands that do not make typer import pydantic."""

from __future__ import annotations

from typing import Any

import typer
import typer.core


class LightHelp:
    """Gives ``--help`` a default that typer takes as it is.

    For every parameter that is not a flag with a boolean, given or not, typer imports pydantic, which takes longer than
    everything that ``plm list`` does; and the default of its own ``--help`` is None.
    """

    def get_help_option(self, ctx: Any) -> Any:
        """The help option."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class LightCommand(LightHelp, typer.core.TyperCommand):
    """A command that imports pydantic only if its own parameters need it."""
