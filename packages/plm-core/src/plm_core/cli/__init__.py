"""The command line ``plm``. Each command is in the module of its own name."""

from plm_core.cli.app import main

__all__ = ["main"]
