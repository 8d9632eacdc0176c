"""Ctrl-C in the middle of many models."""

from __future__ import annotations

from typing import Any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a ranking or a probing.

    Attributes:
        result: The `Ranking` or `Probing` of the models that were finished.
        left: Number of models that were not finished.
    """

    def __init__(self, result: Any, left: int) -> None:
        super().__init__(f"{left} models were not finished")
        self.result = result
        self.left = left
