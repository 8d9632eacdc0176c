"""Where rows come from. Each source knows the number of its rows and reads one when it is asked for it.

    JsonRows     a file of JSON lines, or a folder of ``*chunk.<n>*.jsonl``
    TableRows    a dataset of Hugging Face: ``hf:name:split,config=...``, or a folder that its library has saved
    ShardRows    the tar shards of webdataset: one file, or a folder of them

A line, a row of a table and a sample of a shard have the same fields, see `plm_core.lm.data.rows`.
"""

from __future__ import annotations

import json
import re
import tarfile
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plm_core.datasets.captions.members import read_members
from plm_core.datasets.conversations import find_chunks
from plm_core.datasets.layout import files_in, is_saved
from plm_core.errors import InputError, MissingDependency
from plm_core.lm.data.rows import Row, Stored, listed, parse_row
from plm_core.utils.endings import VIDEOS, image_endings
from plm_core.utils.text import first_line, natural_key

_HIDDEN = re.compile(r"__[^/]*__($|/)")  # names that webdataset leaves out
ALLOWED = (
    "a .jsonl file, a .tar file, a folder of *chunk.<n>*.jsonl or of .tar files, a folder that Hugging Face's library "
    "has saved, or hf:name"
)
"""The sources, in words."""


class Rows(ABC):
    """The rows of one source. They can be pickled, and read in several processes at a time."""

    source: str
    """Where they come from, for messages."""
    root: Path | None
    """The folder of their media."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Return where a row is, for messages."""

    @abstractmethod
    def record(self, index: int) -> Any:
        """Return a row as it is written.

        Raises:
            InputError: It is no JSON, or cannot be read. The message says why, but not where.
        """

    def __getitem__(self, index: int) -> Row:
        """Return a row.

        Raises:
            InputError: There is something wrong with it. The message names it.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.source}, which has {len(self)}")
        place = self.place(index)
        try:
            record = self.record(index)
        except InputError as e:
            raise InputError(f"{place}: {e}") from e
        return parse_row(record, place, self.root)


class JsonRows(Rows):
    """The lines of files of JSON. Empty lines are left out.

    Only where each line begins is kept in memory; the line itself is read when it is asked for.

    Args:
        files: The files, whose lines follow one another.
        root: The folder of the media (default: that of the first file).

    Raises:
        InputError: A file cannot be read, or there are no rows.
    """

    def __init__(self, files: Sequence[Path], root: Path | None = None) -> None:
        self.source = str(files[0] if len(files) == 1 else files[0].parent)
        self.files = tuple(files)
        self.root = files[0].parent if root is None else root
        offsets: array[int] = array("q")
        numbers: array[int] = array("q")
        firsts = []  # for each file, the index of its first row
        for file in files:
            firsts.append(len(offsets))
            _index(file, offsets, numbers)
        self._offsets, self._numbers, self._firsts = np.array(offsets), np.array(numbers), np.array(firsts)
        if not len(offsets):
            raise InputError(f"data {self.source!r} has no rows")

    def __len__(self) -> int:
        return len(self._offsets)

    def place(self, index: int) -> str:
        """Return the file and the number of the line."""
        return f"{self._file(index)}, line {self._numbers[index]}"

    def record(self, index: int) -> Any:
        """Return what the line holds."""
        try:
            with open(self._file(index), "rb") as file:  # each time, so that processes share no position
                file.seek(int(self._offsets[index]))
                return _parsed(file.readline())
        except OSError as e:
            raise InputError(f"the file cannot be read: {e.strerror}") from e

    def _file(self, index: int) -> Path:
        return self.files[int(np.searchsorted(self._firsts, index, "right")) - 1]


class TableRows(Rows):
    """The rows of a dataset of Hugging Face, whose columns have the names of our fields. Images stay encoded.

    Args:
        source: See `plm_core.datasets.huggingface.load_table`.
        root: The folder of the media that are named by their paths (default: the current one).

    Raises:
        InputError: The dataset cannot be loaded.
        MissingDependency: Hugging Face datasets are not installed.
    """

    def __init__(self, source: str | Path, root: Path | None = None) -> None:
        from plm_core.datasets.huggingface import load_table

        self.source = str(source)
        self.root = root
        self.table = load_table(source)

    def __len__(self) -> int:
        return len(self.table)

    def place(self, index: int) -> str:
        """Return the number of the row."""
        return f"{self.source}, row {index}"

    def record(self, index: int) -> Any:
        """Return the row, with encoded images."""
        record = {key: value for key, value in self.table[int(index)].items() if value is not None}
        if "image" in record:
            record["image"] = [_encoded(image) for image in listed(record["image"])]
        return record


class ShardRows(Rows):
    """The samples of shards as the package webdataset writes them (extra ``plm-core[webdataset]``).

    A sample has a JSON file with our fields, or a text file, which is a caption. If it has one image or one video, that
    is the row's, by whatever path the JSON names it. Of several, the JSON names those to take by their endings, as in
    ``"image": ["0.jpg", "1.jpg"]``.

    Args:
        files: The shards, plain tar files.

    Raises:
        InputError: A shard cannot be read, or there are no rows.
        MissingDependency: webdataset is not installed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.source = str(files[0] if len(files) == 1 else files[0].parent)
        self.root = None
        self._samples: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        for file in files:
            self._samples += _samples(file)
        if not self._samples:
            raise InputError(f"data {self.source!r} has no rows")

    def __len__(self) -> int:
        return len(self._samples)

    def place(self, index: int) -> str:
        """Return the shard and the key."""
        shard, key, _ = self._samples[index]
        return f"{shard}, {key}"

    def record(self, index: int) -> Any:
        """Return the fields of the JSON or the caption, with the media as files within the shard."""
        shard, key, places = self._samples[index]
        files = {ending: Stored(f"{key}.{ending}", shard, *place) for ending, place in places.items()}
        if "json" in files:
            record = _parsed(files["json"].read())
            if not isinstance(record, dict):
                return record
        else:
            record = {"text": _caption(files)}
        media = [ending for ending in files if _medium_kind(ending)]
        if len(media) == 1 and not isinstance(record.get("image"), list):
            record[_medium_kind(media[0])] = media[0]
        elif media and not record.get("image") and not record.get("video"):
            raise InputError(
                f"the sample has {', '.join(media)}, of which its JSON must name one as 'image' or 'video'"
            )
        for field in ("image", "video"):
            if record.get(field) is not None:
                record[field] = _members(record[field], files)
        return record


def open_rows(source: str | Path, root: str | Path | None = None) -> Rows:
    """Return the rows of a source.

    Args:
        source: One of `ALLOWED`.
        root: The folder of the media that are named by their paths (default: that of the files of JSON lines).

    Raises:
        InputError: There is no such source, or it has no rows.
        MissingDependency: A package for it is not installed.
    """
    folder = None if root is None else Path(root)
    if str(source).startswith("hf:"):
        return TableRows(source, folder)
    path = Path(source)
    if not path.exists():
        raise InputError(f"data {str(source)!r} does not exist; {ALLOWED} is allowed")
    if path.is_dir():
        return _of_folder(path, folder)
    if path.suffix.lower() == ".tar":
        return ShardRows([path])
    if path.suffix.lower() == ".jsonl":
        return JsonRows([path], folder)
    raise InputError(f"data {str(source)!r} ends in {path.suffix or 'no suffix'}; {ALLOWED} is allowed")


def _of_folder(path: Path, root: Path | None) -> Rows:
    if is_saved(path):
        return TableRows(path, root)
    if chunks := find_chunks(path):
        return JsonRows(chunks, path if root is None else root)
    shards = sorted((name for name in files_in(path) if name.lower().endswith(".tar")), key=natural_key)
    if shards:
        return ShardRows([path / name for name in shards])
    raise InputError(f"folder {str(path)!r} has no rows; {ALLOWED} is allowed")


def _index(file: Path, offsets: array[int], numbers: array[int]) -> None:
    """Note where the lines that are not empty begin, and their numbers from 1."""
    try:
        with open(file, "rb") as lines:
            offset = 0
            for number, line in enumerate(lines, 1):
                if not line.isspace():
                    offsets.append(offset)
                    numbers.append(number)
                offset += len(line)
    except OSError as e:
        raise InputError(f"data {str(file)!r} cannot be read: {e.strerror}") from e


def _parsed(text: bytes) -> Any:
    """Return what a text of JSON holds."""
    try:
        return json.loads(text.removeprefix(b"\xef\xbb\xbf").decode().strip())
    except json.JSONDecodeError as e:
        raise InputError(f"no JSON: {e.msg}, column {e.colno}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"no UTF-8, byte {e.start + 1}") from e
    except RecursionError as e:
        raise InputError("no JSON: nested too deep") from e
    except ValueError as e:  # a number with thousands of digits
        raise InputError(f"no JSON: {first_line(e)}") from e


def _encoded(image: Any) -> Any:
    """Return the contents of an image of a table, or its path."""
    if isinstance(image, Mapping):
        return image["bytes"] if image.get("bytes") is not None else image.get("path")
    return image


def _samples(shard: Path) -> Iterator[tuple[Path, str, dict[str, tuple[int, int]]]]:
    """Yield the samples of a shard: the shard, the key, and offset and size of the files by their endings."""
    try:
        from webdataset.tariterators import group_by_keys
    except ModuleNotFoundError as e:
        raise MissingDependency("tar shards need webdataset: install plm-core[webdataset]") from e
    try:
        with open(shard, "rb") as headers:
            for sample in group_by_keys(_files(headers, shard)):
                files = {ending: place for ending, place in sample.items() if isinstance(place, tuple)}
                yield shard, sample["__key__"], files
    except OSError as e:
        raise InputError(f"shard {str(shard)!r} cannot be read: {e.strerror or first_line(e)}") from e
    except tarfile.TarError as e:
        raise InputError(f"shard {str(shard)!r} is no plain tar file, or cut off: {first_line(e)}") from e
    except ValueError as e:  # webdataset's own, about a name that is twice in one sample
        raise InputError(f"shard {str(shard)!r}: {first_line(e)}") from e


def _files(headers: Any, shard: Path) -> Iterator[dict[str, Any]]:
    """Yield the files of a shard as webdataset's grouping takes them, each with its place for its contents."""
    for member in read_members(headers):
        if not _HIDDEN.match(member.name):
            yield {"fname": member.name, "data": (member.offset, member.size), "__url__": str(shard)}


def _medium_kind(ending: str) -> str:
    """Return the field for a file with an ending; it is empty for files that are no media."""
    last = f".{ending.rpartition('.')[2]}"
    return "video" if last in VIDEOS else "image" if last in image_endings() else ""


def _caption(files: Mapping[str, Stored]) -> str:
    text = next((files[ending] for ending in ("txt", "text", "caption") if ending in files), None)
    if text is None:
        raise InputError("there is no .json and no .txt")
    try:
        return text.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as e:
        raise InputError(f"the caption is no UTF-8, byte {e.start + 1}") from e


def _members(named: Any, files: Mapping[str, Stored]) -> Any:
    """Return the files that a field of a sample names by their endings."""
    if isinstance(named, list):
        return [_members(name, files) for name in named]
    if isinstance(named, str) and named not in files:
        raise InputError(f"there is no file {named!r} in the sample, but {', '.join(files)}")
    return files[named] if isinstance(named, str) else named
