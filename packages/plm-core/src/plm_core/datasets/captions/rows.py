r"""Captions from rows of JSON, one in each line: ``{"image": "a/1.png", "caption": "a red circle"}``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plm_core.datasets.captions.broken import Broken
from plm_core.datasets.captions.data import Captions, Files, captions_in, grouped, json_word
from plm_core.errors import InputError
from plm_core.utils.text import shown

FIELDS = {"image": "images", "video": "videos"}
"""The field that names a medium, and the kind of the media."""


def read_rows(file: Path, skip: bool = False) -> Captions:
    """Read the names and captions in a file of rows, in one pass. No image or video is opened.

    A row has ``image`` or ``video``, a path relative to the file, and ``caption``, or ``captions`` for several. Other
    fields are not looked at, nor are empty lines. Rows of the same image or video are one with several captions.

    Args:
        file: The file, UTF-8 with or without a byte-order mark.
        skip: Whether broken rows are left out with a warning, and are no error. A row is broken if it is no JSON
            object, lacks a field, has an empty caption or one that is no text, or names a file that is not there.

    Raises:
        InputError: The file cannot be read; rows are broken (the message counts them, and lists the first ones with
            their line numbers); or some rows name images and others videos.
    """
    broken = Broken(str(file), "rows")
    present = _Present(file.parent)
    places: dict[str, int] = {}
    texts: list[str] = []
    owner: list[int] = []
    first: dict[str, int] = {}  # by field, the line that had it first
    rows = 0
    for number, line in _lines(file):
        try:
            field, name, captions = _parse(line)
            if name not in places and not present(name):
                raise ValueError(f"no file '{shown(name)}'")
        except (ValueError, RecursionError) as e:
            broken.add(f"line {number}", _reason(e))
            continue
        rows += 1
        first.setdefault(field, number)
        place = places.setdefault(name, len(places))
        texts += captions
        owner += [place] * len(captions)
    left_out = broken.settle(rows, skip)
    if len(first) > 1:
        both = " and ".join(f"{FIELDS[field]} (line {number})" for field, number in first.items())
        raise InputError(f"data {str(file)!r} has {both}; images or videos are allowed, each in a file of their own")
    names = list(places)
    return Captions(
        str(file), names, Files(file.parent, names), *grouped(texts, owner), FIELDS[next(iter(first))], left_out
    )


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty with their numbers from 1."""
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as e:
        raise InputError(f"data {str(file)!r} cannot be read: {e.strerror}") from e


def _parse(line: bytes) -> tuple[str, str, list[str]]:
    """Return the field, the name and the captions in a row.

    Raises:
        ValueError: The row is broken. The message says why.
    """
    record = json.loads(line.decode().rstrip())  # or an error at the end would be in a second line
    if not isinstance(record, dict):
        raise ValueError(f"{json_word(record)}, no object")
    fields = [field for field in FIELDS if field in record]
    if not fields:
        raise ValueError("no field 'image' or 'video'")
    if len(fields) > 1:
        raise ValueError("both 'image' and 'video'")
    name: Any = record[fields[0]]
    if not isinstance(name, str) or not name:
        raise ValueError(f"{fields[0]!r} is {json_word(name) if name != '' else 'empty'}, no path")
    return fields[0], name, captions_in(record)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"no UTF-8, byte {error.start + 1}"
    return "no JSON: nested too deep" if isinstance(error, RecursionError) else str(error)


class _Present:
    """Tells whether there is a file. Each folder is listed once, which is faster than to ask for a million files."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.files: dict[str, frozenset[str]] = {}

    def __call__(self, name: str) -> bool:
        folder, slash, base = name.rpartition("/")
        files = self.files.get(folder + slash)
        if files is None:
            files = self.files[folder + slash] = self._list(folder + slash)
        # file systems may know a file by several spellings, of which the list has one
        return base in files or self._asked(name)

    def _list(self, folder: str) -> frozenset[str]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                return frozenset(entry.name for entry in entries if entry.is_file())
        except (OSError, ValueError):  # no such folder; a name with a null byte or half a character
            return frozenset()

    def _asked(self, name: str) -> bool:
        try:
            return os.path.isfile(os.path.join(self.root, name))
        except ValueError:
            return False
