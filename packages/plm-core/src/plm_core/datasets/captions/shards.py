"""Captions from tar shards as the package webdataset writes them (extra ``plm-core[webdataset]``).

A sample is a group of files that share a key: ``a/1.jpg`` and ``a/1.txt``. The package itself splits names into keys
and endings and groups them, so that its rules hold to the letter. It reads shards as a stream, which has no length, no
order that can be shuffled as a whole, and no place to resume at; the training loop needs all three. So the headers are
read once, and the contents by their place in the shard when a sample is needed.
"""

from __future__ import annotations

import json
import re
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from plm_core.datasets.captions.broken import Broken
from plm_core.datasets.captions.data import Captions, Media, captions_in, checked_caption, grouped, json_word
from plm_core.datasets.captions.layout import Part
from plm_core.datasets.captions.members import Member, read_members
from plm_core.errors import InputError, MissingDependency
from plm_core.utils.endings import VIDEOS, image_endings
from plm_core.utils.progress import track
from plm_core.utils.text import first_line

TEXTS = ("txt", "text", "caption")
"""Endings of files that are a caption."""
_META = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset leaves out."""


class Members(Media):
    """The contents of files in shards, each read when it is indexed.

    Args:
        shards: The shards.
        shard: The index of the shard of each file [N].
        offset: Its place in the shard [N].
        size: The number of its bytes [N].
    """

    def __init__(
        self, shards: Sequence[Path], shard: NDArray[np.int64], offset: NDArray[np.int64], size: NDArray[np.int64]
    ) -> None:
        self.shards = shards
        self.shard, self.offset, self.size = shard, offset, size

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, index: Any) -> Any:
        path = self.shards[int(self.shard[index])]
        try:
            with open(path, "rb") as file:  # each time, so that threads and processes share no position
                return _contents(file, int(self.offset[index]), int(self.size[index]))
        except OSError as e:
            raise InputError(f"shard {str(path)!r}: {e.strerror}") from e

    def take(self, order: NDArray[np.int64]) -> Members:
        """Return the files of some indices, in their order."""
        return Members(self.shards, self.shard[order], self.offset[order], self.size[order])


@dataclass
class _Found:
    """What has been read from the shards so far."""

    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("q"))  # shard, offset and size of each
    first: dict[str, str] = field(default_factory=dict)  # by kind, the name that had it first

    def add(self, shard: int, name: str, medium: Member, kind: str, captions: list[str]) -> None:
        self.first.setdefault(kind, name)
        self.owner += [len(self.names)] * len(captions)
        self.texts += captions
        self.names.append(name)
        self.places.extend((shard, medium.offset, medium.size))


def read_shards(part: Part, skip: bool = False) -> Captions:
    """Read the names and captions of the samples in shards. No image or video is read.

    A sample has one image or video, and a caption: a text file (`TEXTS`), or a JSON object with ``caption``, or with
    ``captions`` for several. The text file counts if there are both. Other files of a sample are not looked at. A key
    is one sample in each run of files; samples of different keys or shards are never put together.

    Args:
        part: The shards, which are plain tar files: in a compressed one there is no way to a place in the middle.
        skip: Whether broken samples are left out with a warning, and are no error. So is the end of a shard that is
            cut off.

    Raises:
        InputError: A shard cannot be read; samples are broken (the message counts them, and lists the first ones); or
            some have images and others videos.
        MissingDependency: webdataset is not installed.
    """
    group = _grouping()
    broken = Broken(part.source, "samples")
    found = _Found()
    for number, shard in enumerate(track(part.files, "reading shards", len(part.files))):
        _read_shard(shard, number, group, found, broken)
    left_out = broken.settle(len(found.names), skip)
    if len(found.first) > 1:
        both = " and ".join(f"{kind} ({name})" for kind, name in found.first.items())
        raise InputError(f"data {part.source!r} has {both}; images or videos are allowed, in shards of their own")
    places = np.frombuffer(found.places, np.int64).reshape(-1, 3).T
    return Captions(
        part.source,
        found.names,
        Members(part.files, *np.ascontiguousarray(places)),
        *grouped(found.texts, found.owner),
        next(iter(found.first)),
        left_out,
    )


def _grouping() -> Callable[..., Iterable[dict[str, Any]]]:
    try:
        from webdataset.tariterators import group_by_keys
    except ModuleNotFoundError as e:
        raise MissingDependency("captions in tar shards need webdataset: install plm-core[webdataset]") from e
    return group_by_keys


def _read_shard(
    shard: Path, number: int, group: Callable[..., Iterable[dict[str, Any]]], found: _Found, broken: Broken
) -> None:
    """Read the samples of one shard."""

    def note(error: Exception) -> bool:
        name = str(error.args[0]).partition(": duplicate file name")[0]
        broken.add(f"{shard.name}/{name}", "twice in one sample")
        return True

    try:
        with open(shard, "rb") as headers, open(shard, "rb") as contents:
            for sample in group(_members(headers, shard, broken), handler=note):
                key = f"{shard.name}/{sample['__key__']}"
                files = {ending: member for ending, member in sample.items() if isinstance(member, Member)}
                try:
                    medium, kind = _medium(files)
                    captions = _captions(files, contents)
                except (ValueError, RecursionError) as e:
                    broken.add(key, first_line(e))
                    continue
                found.add(number, f"{shard.name}/{medium.name}", medium, kind, captions)
    except OSError as e:
        raise InputError(f"shard {str(shard)!r} cannot be read: {e.strerror or first_line(e)}") from e
    except tarfile.TarError as e:
        raise InputError(f"shard {str(shard)!r} is no plain tar file: {first_line(e)}") from e


def _members(headers: BinaryIO, shard: Path, broken: Broken) -> Iterator[dict[str, Any]]:
    """Yield the files of a shard as webdataset's grouping takes them, each with its place for its contents."""
    end = headers.seek(0, 2)
    member = None
    try:
        for member in read_members(headers):
            # beyond the end there is no next header either, which is noted then
            if not _META.match(member.name) and member.offset + member.size <= end:
                yield {"fname": member.name, "data": member, "__url__": str(shard)}
    except tarfile.TarError as e:
        if member is None:
            raise
        broken.add(shard.name, f"cut off or damaged: {first_line(e)}")


def _medium(files: Mapping[str, Member]) -> tuple[Member, str]:
    """Return the image or video of a sample, and its kind."""
    images = image_endings()
    kinds = {ending: _kind(ending, images) for ending in files}
    ending = _only([ending for ending, kind in kinds.items() if kind], "image or video")
    if ending is None:
        raise ValueError(f"no image or video among {', '.join(files) or 'its files'}")
    return files[ending], kinds[ending]


def _kind(ending: str, images: frozenset[str]) -> str:
    last = f".{ending.rpartition('.')[2]}"
    return "videos" if last in VIDEOS else "images" if last in images else ""


def _captions(files: Mapping[str, Member], contents: BinaryIO) -> list[str]:
    """Return the captions of a sample: the text file, or else those in the JSON file."""
    text = _only([ending for ending in files if ending.rpartition(".")[2] in TEXTS], "caption")
    if text is not None:
        return [checked_caption(_text(contents, files[text]), f".{text}")]
    record = _only([ending for ending in files if ending.rpartition(".")[2] == "json"], "JSON file")
    if record is None:
        raise ValueError("no .txt and no .json with a caption")
    try:
        fields = json.loads(_text(contents, files[record]))
    except json.JSONDecodeError as e:
        raise ValueError(f".{record} is no JSON: {e.msg}") from e
    if not isinstance(fields, dict):
        raise ValueError(f".{record} is {json_word(fields)}, no object")
    return captions_in(fields)


def _only(endings: list[str], what: str) -> str | None:
    """Return the one ending of a kind; of several, the one without a dot, as ``jpg`` beside ``mask.jpg``.

    Raises:
        ValueError: There are several of them.
    """
    plain = [ending for ending in endings if "." not in ending] or endings
    if len(plain) > 1:
        raise ValueError(f"more than one {what}: {', '.join(plain)}")
    return plain[0] if plain else None


def _text(contents: BinaryIO, member: Member) -> str:
    try:
        return _contents(contents, member.offset, member.size).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{member.name.rpartition('/')[2]} is no UTF-8") from e


def _contents(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return a part of a file.

    Raises:
        InputError: The file ends before that.
    """
    file.seek(offset)
    contents = file.read(size)
    if len(contents) < size:
        raise InputError("the shard ends in the middle of it")
    return contents
