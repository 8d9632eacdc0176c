"""What a source of data holds: images, videos, captions, COCO's or a gaze format, a model, or nothing that is known.

Commands describe the data that they take by `KINDS`, and refuse other data by `check_kind` before anything is loaded.
Only names of files are looked at, and the first row of JSON lines, which may be captions or conversations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from plm_core.datasets.captions.layout import find_rows, find_shards, is_captions
from plm_core.datasets.conversations import find_conversations
from plm_core.datasets.layout import files_below, find_splits, is_saved, subfolders
from plm_core.errors import InputError, UnknownName
from plm_core.utils.endings import VIDEOS, image_endings
from plm_core.utils.near_misses import miss

MAX_FILES = 10_000
"""Number of files after which a look at the contents of a folder ends."""


@dataclass(frozen=True)
class Kind:
    """A kind of data, in words for messages and help texts."""

    name: str
    word: str
    """The contents in a word or two, such as ``images``."""
    holds: str
    """The contents and their order, such as ``images in class folders``."""
    layout: str
    """The files and folders that are expected."""


_SPLITS = "train/ and val/ with one folder of"
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("images", "images", "images in class folders", f"{_SPLITS} images per class, as in cat/1.png"),
        Kind("videos", "videos", "videos in class folders", f"{_SPLITS} videos per class, as in run/1.mp4"),
        Kind(
            "captions",
            "captions",
            "images or videos with captions",
            'captions.jsonl with rows such as {"image": "a/1.png", "caption": "..."}, or shards (.tar)',
        ),
        Kind(
            "conversations",
            "conversations",
            "conversations about images or videos",
            'a .jsonl file with rows such as {"image": "1.png", "conversations": [...]}, a folder with train.jsonl or '
            "with *chunk.<n>*.jsonl, or a registry (.yaml)",
        ),
        Kind("coco", "COCO data", "images and instances.json", "train/ and val/, each with images/ and instances.json"),
        Kind(
            "gazefollow",
            "GazeFollow's data",
            "photos and GazeFollow's annotations",
            "train_annotations_release.txt and test_annotations_release.txt beside the images",
        ),
        Kind(
            "vat",
            "VideoAttentionTarget's data",
            "frames and VideoAttentionTarget's annotations",
            "images/SHOW/CLIP/ and annotations/train/SHOW/CLIP/PERSON.txt, and test/ likewise",
        ),
        Kind("model", "models", "a model", "a folder with config.json and model.safetensors"),
        Kind("empty", "empty folders", "no files", "a folder without files"),
        Kind("unknown", "other files", "other files", "any other files"),
    )
}
"""The kinds of data by name."""


def kind_of(source: str | Path) -> str:
    """Return the name of the kind of data that a source holds, one of `KINDS`.

    - ``images``: class folders of images, an .npz file, ``hf:name`` or a folder that Hugging Face datasets have saved.
    - ``videos``: class folders of videos. Where there are both, the first class folder that has files decides.
    - ``captions``: ``captions.jsonl``, or ``train.jsonl``, whatever lies beside it; shards (.tar) where there are no
      class folders; a .jsonl or .tar file.
    - ``conversations``: a registry (.yaml); a folder of ``*chunk.<n>*.jsonl``; and of captions those in a .jsonl file,
      or in ``train.jsonl``, whose first row has turns, see `plm_core.datasets.conversations`.
    - ``coco``: ``images/`` beside ``instances.json``.
    - ``gazefollow``: ``train_annotations_release.txt`` or ``test_annotations_release.txt``, whatever lies beside it.
    - ``vat``: ``images/`` beside text files such as ``annotations/train/SHOW/CLIP/PERSON.txt``.
    - ``model``: ``config.json`` beside ``model.safetensors``.
    - ``empty``: no file at all. ``unknown``: anything else.

    All but models and the two formats of gaze may also lie in splits (see `plm_core.datasets.layout.find_splits`).
    Hidden files and folders are not seen.

    Raises:
        InputError: There is no such file or folder.
    """
    if str(source).startswith("hf:"):
        return "images"
    path = Path(source)
    if not path.exists():
        files = (
            "a folder, an .npz file or hf:name[:split] is allowed, for captions a .jsonl or .tar file, and for "
            "conversations a .jsonl or .yaml file"
        )
        raise InputError(f"data {str(source)!r} does not exist; {files}")
    if path.is_file():
        return _kind_of_file(path)
    return _kind_of_folder(path)


def _kind_of_folder(path: Path) -> str:
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return "model"
    if is_saved(path):
        return "images"
    if find_conversations(path):
        return "conversations"
    if find_rows(path):
        return "captions"
    return _kind_of_gaze(path) or _kind_of_splits(path) or ("unknown" if next(files_below(path), None) else "empty")


def _kind_of_gaze(path: Path) -> str | None:
    """Return the kind of the annotations of gaze in a folder. Their images may look like class folders."""
    if any((path / f"{split}_annotations_release.txt").is_file() for split in ("train", "test")):
        return "gazefollow"
    tracks = (path / "annotations" / split for split in ("train", "test"))
    if (path / "images").is_dir() and any(next(folder.glob("*/*/*.txt"), None) for folder in tracks):
        return "vat"
    return None


def _kind_of_splits(path: Path) -> str | None:
    """Return the kind of the data in a folder, or in the folder of its training split."""
    root, _ = find_splits(path)
    if find_rows(root):
        return "captions"
    if (root / "images").is_dir() and (root / "instances.json").is_file():
        return "coco"
    if kind := _kind_of_classes(root):
        return kind
    return "captions" if find_shards(path) or find_shards(root) else None


def _kind_of_file(path: Path) -> str:
    if find_conversations(path):
        return "conversations"
    if is_captions(path):
        return "captions"
    return "images" if path.suffix.lower() == ".npz" else "unknown"


def _kind_of_classes(root: Path) -> str | None:
    """Return the kind of the files in the first class folder that has images or videos: what most of them are."""
    images = image_endings()
    for name in subfolders(root):
        endings = [file.suffix.lower() for file in islice(files_below(root / name), MAX_FILES)]
        count = Counter("videos" if e in VIDEOS else "images" for e in endings if e in VIDEOS or e in images)
        if count:
            return "videos" if count["videos"] > count["images"] else "images"
    return None


def check_kind(
    source: str | Path, expected: str | Collection[str], used_by: str, others: Mapping[str, str] | None = None
) -> str:
    """Return the kind of data that a source holds if it is an expected one.

    Args:
        source: A folder, a file or ``hf:name[:split]``.
        expected: The name of one of `KINDS`, or several.
        used_by: The subject of the message, such as ``recipe 'finetune'``.
        others: By kind, the subject that takes it instead, for the message.

    Raises:
        InputError: The source holds something else, or does not exist. The message says what was found, and what is
            expected.
        UnknownName: There is no such kind.
    """
    wanted = [_named(name) for name in ([expected] if isinstance(expected, str) else expected)]
    found = kind_of(source)
    if any(kind.name == found for kind in wanted):
        return found
    if found in ("empty", "unknown"):
        layouts = ", or ".join(kind.layout for kind in wanted)
        raise InputError(f"data {str(source)!r} is no dataset: {_contents(Path(source))}; expected {layouts}")
    takes = " or ".join(kind.holds for kind in wanted)
    instead = (others or {}).get(found)
    hint = f" ({instead} takes {KINDS[found].word})" if instead else ""
    raise InputError(f"data {str(source)!r} holds {_holds(source, found)}; {used_by} takes {takes}{hint}")


def _named(name: str) -> Kind:
    if name not in KINDS:
        raise UnknownName(miss("kind of data", name, KINDS))
    return KINDS[name]


def _holds(source: str | Path, kind: str) -> str:
    """Say what a source holds. Images of an npz file or of Hugging Face datasets lie in no class folders."""
    in_folders = not str(source).startswith("hf:") and Path(source).is_dir() and not is_saved(Path(source))
    return KINDS[kind].holds if kind != "images" or in_folders else "labelled images"


def _contents(path: Path) -> str:
    """Say which files there are: ``found 3 .txt files``."""
    if path.is_file():
        return f"it is a {path.suffix.lower()} file" if path.suffix else "it is a file without an ending"
    files = list(islice(files_below(path), MAX_FILES))
    if not files:
        return "it holds no files"
    endings = Counter(file.suffix.lower() for file in files)
    groups = [_group(count, ending) for ending, count in endings.most_common(3)]
    more = " and others" if len(endings) > len(groups) or len(files) == MAX_FILES else ""
    return f"found {', '.join(groups)}{more}"


def _group(count: int, ending: str) -> str:
    files = "file" if count == 1 else "files"
    return f"{count} {ending} {files}" if ending else f"{count} {files} without an ending"
