"""The files of conversations, as a language model is trained on them: rows (.jsonl) or a registry of sources (.yaml).

What the rows hold is read by `plm_core.lm.data`. Here only enough is read to tell them from captions.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from plm_core.datasets.captions.layout import find_rows
from plm_core.datasets.layout import files_in
from plm_core.errors import InputError

REGISTRIES = (".yaml", ".yml")
"""The suffixes of a registry."""
HELD_OUT = "validation.jsonl"
"""The file of held-out rows, beside the rows or the registry to train on."""
MAX_LINE = 1 << 20
"""The bytes of the first row that are looked at."""
_CHUNK = re.compile(r".*chunk\.(\d+).*\.jsonl", re.DOTALL)
_WHOLE = re.compile(rb'"(conversations|caption|captions|text)"\s*:')


def find_chunks(folder: Path) -> list[Path]:
    """Return the files ``*chunk.<n>*.jsonl`` of a folder by their numbers; none if there are none.

    Raises:
        InputError: The folder cannot be read.
    """
    chunks = sorted((int(match[1]), match[0]) for match in map(_CHUNK.fullmatch, files_in(folder)) if match)
    return [folder / name for _, name in chunks]


def find_conversations(path: Path) -> tuple[list[Path], Path | None] | None:
    """Return the files of a source to train on and the file of its held-out rows; None if it holds no conversations.

    A source is a file of rows, a registry, a folder of chunks, or a folder with ``train.jsonl``. Held-out rows are in
    `HELD_OUT` beside or inside it, or in the file that `plm_core.datasets.captions.layout.find_rows` takes for them.

    Raises:
        InputError: The folder cannot be read, or two files may be the same split.
    """
    if path.is_file():
        known = path.suffix.lower() in REGISTRIES or (path.suffix.lower() == ".jsonl" and _has_turns(path))
        return ([path], _beside(path.parent, path)) if known else None
    if chunks := find_chunks(path):
        return chunks, _beside(path)
    rows = find_rows(path)
    if rows is None or not _has_turns(rows[0].files[0]):
        return None
    return list(rows[0].files), rows[1].files[0] if rows[1] else None


def _beside(folder: Path, path: Path | None = None) -> Path | None:
    held_out = folder / HELD_OUT
    return held_out if held_out.is_file() and held_out != path else None


def _has_turns(path: Path) -> bool:
    """Return whether the first row of a file is a conversation, or a caption in the words of conversations."""
    try:
        with path.open("rb") as file:
            line = next((line for line in iter(lambda: file.readline(MAX_LINE), b"") if line.strip()), b"")
    except OSError as e:
        raise InputError(f"data {str(path)!r} cannot be read: {e.strerror}") from e
    try:
        row = json.loads(line)
        keys = set(row) if isinstance(row, dict) else set()
    except (ValueError, RecursionError):  # a damaged or a very long row
        keys = {name.decode() for name in _WHOLE.findall(line)}
    return bool(keys & {"conversations", "text"}) and not keys & {"caption", "captions"}
