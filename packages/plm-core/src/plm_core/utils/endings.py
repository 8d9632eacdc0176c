"""The endings of files by which images and videos are known."""

from __future__ import annotations

from functools import cache

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""Endings of videos, in lower case."""


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of the images that PIL reads, in lower case."""
    from PIL import Image

    # PIL recognises MPEG, but reads none of its frames
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return frozenset(readable - set(VIDEOS))
