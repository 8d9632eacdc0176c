"""The files in a tar archive: their names and where their contents are, from the headers alone.

Python's tarfile makes an object of each header, which is what would take most of the time for millions of files. Here
the usual headers are read as bytes. From the first one on that is unusual, tarfile reads on.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
"""The contents and the headers fill blocks of so many bytes."""
FILE, FOLDER, EXTENSION = b"0", b"5", b"x"
"""The types of the headers that are read here."""
FACTS = frozenset((b"path", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname"))
"""The facts of extensions that are understood here, of which the path counts."""


class Member(NamedTuple):
    """A file in an archive: its name, and where its contents are."""

    name: str
    offset: int
    size: int


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of a tar archive that is not compressed, in their order. Sparse files are left out.

    Args:
        file: The archive. The caller may move its position.

    Raises:
        tarfile.TarError: It is no such archive, or is cut off or damaged from here on.
    """
    offset = 0
    while (header := _usual(file, offset)) is not None:
        kind, member = header
        if kind == FILE:
            yield member
        offset = member.offset + -(-member.size // BLOCK) * BLOCK
    if offset > file.seek(0, 2):
        raise tarfile.ReadError("unexpected end of data")
    file.seek(offset)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        yield from _others(archive, file)


def _others(archive: tarfile.TarFile, file: BinaryIO) -> Iterator[Member]:
    """Yield the files that tarfile finds. It ends silently at a damaged header, which is an error here."""
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # or it would hold the headers of all files
        if info.isreg() and not info.issparse():
            yield Member(info.name, info.offset_data, info.size)
    file.seek(archive.offset)
    if file.read(BLOCK).strip(b"\0"):
        raise tarfile.ReadError("bad header")


def _usual(file: BinaryIO, offset: int) -> tuple[bytes, Member] | None:
    """Return the type of the file or folder whose header is at an offset, and where it is; None if that is unusual."""
    file.seek(offset)
    header = _header(file.read(BLOCK))
    if header is None:
        return None
    kind, name, size = header
    offset += BLOCK
    if kind != EXTENSION:
        return kind, Member(name, offset, size)
    facts = _facts(file.read(size))
    offset += -(-size // BLOCK) * BLOCK
    file.seek(offset)
    header = _header(file.read(BLOCK))
    if facts is None or header is None or header[0] == EXTENSION:
        return None
    path = facts.get(b"path")
    name = header[1] if path is None else path.decode("utf-8", "surrogateescape")
    return header[0], Member(name, offset + BLOCK, header[2])


def _header(block: bytes) -> tuple[bytes, str, int] | None:
    """Return type, name and size in a header; None if it is unusual, damaged, cut off or the end of the archive."""
    if len(block) < BLOCK or block[345]:  # a name in two parts
        return None
    kind = block[156:157].replace(b"\0", FILE)
    try:
        size = int(block[124:136].strip(b" \0"), 8)
        checksum = int(block[148:156].strip(b" \0"), 8)
    except ValueError:  # a size in binary
        return None
    # the sum of all bytes, with blanks in the place of the sum; most bytes are zeros, which are faster left out
    if sum(block.replace(b"\0", b"")) - sum(block[148:156]) + 8 * ord(" ") != checksum:
        return None
    name = block[:100].partition(b"\0")[0]
    if kind not in (FILE, FOLDER, EXTENSION) or (kind == FOLDER and size) or name.endswith(b"/") != (kind == FOLDER):
        return None
    return kind, name.decode("utf-8", "surrogateescape"), size


def _facts(records: bytes) -> dict[bytes, bytes] | None:
    """Return the facts in an extended header, by name; None if there are some that are not understood here."""
    facts = {}
    place = 0
    while place < len(records):
        digits, _, _ = records[place : place + 20].partition(b" ")
        try:
            length = int(digits)
        except ValueError:
            return None
        name, _, value = records[place + len(digits) + 1 : place + length - 1].partition(b"=")
        if name not in FACTS:
            return None
        facts[name] = value
        place += length
    return facts if place == len(records) else None
