"""The rows of captions that cannot be used. They are counted, and an error or left out with a warning."""

from __future__ import annotations

import logging

from plm_core.datasets.checking import MAX_LISTED, MAX_NAMES
from plm_core.errors import InputError
from plm_core.utils.progress import main_process
from plm_core.utils.text import shown

_log = logging.getLogger("plm_core")


class Broken:
    """What is broken in one source.

    Args:
        source: The source, for messages.
        what: What is counted, such as ``rows``.
    """

    def __init__(self, source: str, what: str) -> None:
        self.source = source
        self.what = what
        self.places: list[str] = []
        self.listed: list[str] = []

    def add(self, place: str, reason: object) -> None:
        """Note what is broken, and why.

        Args:
            place: Where it is, such as ``line 4``.
            reason: The reason in a few words.
        """
        self.places.append(place)
        if len(self.listed) < MAX_LISTED:
            self.listed.append(f"{shown(place)} ({shown(str(reason), 120)})")

    def settle(self, kept: int, skip: bool) -> tuple[str, ...]:
        """Return the places that are left out, after an error or a warning that counts and lists them.

        Args:
            kept: Number of those that can be used.
            skip: Whether the others are left out with a warning, and are no error.

        Raises:
            InputError: Some are broken, and ``skip`` is not set; or none can be used.
        """
        count = len(self.places)
        if not count + kept:
            raise InputError(f"data {self.source!r} has no {self.what}")
        if not count:
            return ()
        most = MAX_LISTED if skip and kept else MAX_NAMES
        listed = ", ".join(self.listed[:most]) + (f" and {count - most} more" if count > most else "")
        rows = self.what if count > 1 else f"{self.what}.".replace("ies.", "y").removesuffix("s.")
        message = f"data {self.source!r} has {count} broken {rows} of {count + kept}"
        if not kept:
            raise InputError(f"{message}: {listed}")
        if not skip:
            raise InputError(f"{message}, which --skip-unreadable leaves out: {listed}")
        if main_process():
            _log.warning("%s, left out: %s", message, listed)
        return tuple(self.places)
