"""What is said once about all models that it concerns, at the end of a ranking or a probing."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_log = logging.getLogger("parc")


def log_notes(notes: Iterable[tuple[str, str]]) -> None:
    """Log each note once, with the first model that it concerns and the number of the others.

    Args:
        notes: The model and the note.
    """
    models: dict[str, list[str]] = {}
    for model, note in notes:
        models.setdefault(note, []).append(model)
    for note, concerned in models.items():
        more = f" and {len(concerned) - 1} more" if len(concerned) > 1 else ""
        _log.warning("%s (%s%s)", note, concerned[0], more)
