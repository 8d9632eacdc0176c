"""The files to predict for, from paths of files and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from plm_core.datasets.layout import files_below
from plm_core.errors import InputError
from plm_core.utils.endings import VIDEOS, image_endings
from plm_core.utils.text import natural_key


class Kind(StrEnum):
    """The kind of a file, as far as its ending tells."""

    IMAGE = "image"
    VIDEO = "video"
    OTHER = "other file"


@dataclass(frozen=True)
class InputFile:
    """A file to predict for.

    Attributes:
        path: The file.
        kind: Its kind.
        folder: The folder that was given, or None if the file itself was.
    """

    path: Path
    kind: Kind
    folder: Path | None = None

    @property
    def name(self) -> Path:
        """The path below the folder that was given; the file's own name if the file itself was."""
        return self.path.relative_to(self.folder) if self.folder else Path(self.path.name)


def find_files(paths: Iterable[str | Path]) -> list[InputFile]:
    """List the files at the paths. A folder gives all files in it and in the folders below it, in natural order.

    Files and folders whose names begin with a dot are left out. Links to folders are followed.

    Raises:
        InputError: A path does not exist, or a folder has neither images nor videos; the message says what it has.
    """
    files: list[InputFile] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = [InputFile(file, _kind(file), path) for file in files_below(path)]
            if all(file.kind == Kind.OTHER for file in below):
                raise InputError(f"folder {str(path)!r} has no images or videos: {_contents(below)}")
            files += sorted(below, key=lambda file: [natural_key(part) for part in file.name.parts])
        elif path.exists():
            files.append(InputFile(path, _kind(path)))
        else:
            raise InputError(f"path {str(path)!r} does not exist; files and folders are allowed")
    return files


def select_files(files: Sequence[InputFile], kind: Kind, model: str) -> list[InputFile]:
    """Return the files of one kind from folders, and all files that were given themselves.

    Args:
        files: The files that `find_files` has found.
        kind: What the model takes: images or videos.
        model: Name of the model, for messages.

    Raises:
        InputError: A file that was given is of the other kind, or a folder has no file of this kind.
    """
    for file in files:
        if file.folder is None and file.kind not in (kind, Kind.OTHER):  # an unknown ending is no reason to refuse it
            raise InputError(f"path {str(file.path)!r} is {_a(file.kind)}; model {model!r} takes {kind}s")
    for folder in dict.fromkeys(file.folder for file in files if file.folder):
        below = [file for file in files if file.folder == folder]
        if not any(file.kind == kind for file in below):
            raise InputError(f"folder {str(folder)!r} has no {kind}s, which model {model!r} takes: {_contents(below)}")
    return [file for file in files if file.folder is None or file.kind == kind]


def _a(kind: Kind) -> str:
    return f"{'an' if kind == Kind.IMAGE else 'a'} {kind}"


def _kind(file: Path) -> Kind:
    ending = file.suffix.lower()
    if ending in VIDEOS:
        return Kind.VIDEO
    return Kind.IMAGE if ending in image_endings() else Kind.OTHER


def _contents(files: Sequence[InputFile]) -> str:
    """Say which files there are: ``found 3 .txt files and 1 .csv file``."""
    if not files:
        return "found no files"
    endings = Counter(file.path.suffix.lower() or "other" for file in files)
    most = sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    rest = len(files) - sum(n for _, n in most)
    groups = [f"{n} {ending} file{'s' * (n > 1)}" for ending, n in most]
    return f"found {', '.join(groups)}{f' and {rest} more' if rest else ''}"
