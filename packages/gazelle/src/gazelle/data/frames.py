"""The image files that annotations name, which must exist, and their sizes."""

from __future__ import annotations

import os
from pathlib import Path

from plm_core import InputError
from plm_core.utils.images import stored_size
from plm_core.utils.text import shown

Size = tuple[int, int]


class Photos:
    """Images below a folder, each with a size of its own, which is read once.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sizes: dict[str, Size | str] = {}

    def size(self, name: str) -> Size:
        """Return the width and height of an image.

        Raises:
            ValueError: It is not there, or no image. The message says it in a few words.
        """
        if name not in self._sizes:
            try:
                self._sizes[name] = stored_size(self.root / name)
            except InputError as e:
                self._sizes[name] = f"image '{shown(name)}': {e}"
        size = self._sizes[name]
        if isinstance(size, str):
            raise ValueError(size)
        return size


class Frames:
    """The frames of clips, a folder of images for each clip. The size of a clip is that of one frame.

    Args:
        root: The folder of the folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, frozenset[str]] = {}
        self._sizes: dict[str, Size] = {}

    def size(self, clip: str, name: str) -> Size:
        """Return the width and height of a frame.

        Raises:
            ValueError: It is not there, or no frame of the clip could be read yet. The message says it in a few words.
        """
        if clip not in self._names:
            self._names[clip] = _files(self.root / clip)
        if name not in self._names[clip]:
            raise ValueError(f"no file '{shown(f'{clip}/{name}')}'")
        if clip not in self._sizes:
            try:
                self._sizes[clip] = stored_size(self.root / clip / name)
            except InputError as e:
                raise ValueError(f"image '{shown(f'{clip}/{name}')}': {e}") from e
        return self._sizes[clip]


def _files(folder: Path) -> frozenset[str]:
    """Return the names of the files in a folder, which is listed once: that is faster than to ask for each of them."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # no such folder, or a name with a null byte
        return frozenset()
