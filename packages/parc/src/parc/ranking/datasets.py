"""Labelled images from a folder, an npz file or Hugging Face datasets, and the probe that is drawn from them.

What is read from disk stays encoded: an item is the path of a file, its bytes, or an array of pixels. Nothing here
imports torch.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from parc.probe import sample_probe
from plm_core.errors import InputError, MissingDependency
from plm_core.utils.progress import track

_log = logging.getLogger("parc")
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
NAMED = 5
"""Unreadable images that an error names."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images, still encoded."""

    source: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    """Classes [N], or zeros and ones [N, C] where an image has several labels."""
    classes: tuple[str, ...]
    items: Sequence[Any]
    """Of each image the path, the encoded bytes, or pixels uint8 [H, W(, C)]."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Probe:
    """The few images of a dataset on which models are looked at."""

    run: int
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    items: Sequence[Any]
    digest: str
    """sha256 over names, labels and contents of the images, in their order."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """One image, decoded."""
        return decode(_contents(self.items[index]))

    def packed(self) -> Probe:
        """The same with the contents of all files in memory, for a machine that does not see the files."""
        return replace(self, items=[_contents(self.items[i]) for i in range(len(self))])


def load(source: str | Path) -> Dataset:
    """Find out what ``source`` is and read its names and labels.

    Args:
        source: A folder with one folder of images per class (its ``train`` folder, if it holds splits); an ``.npz``
            file with ``images``, uint8 [N, H, W] or [N, H, W, C], and ``labels``, [N] or zeros and ones [N, C]; a
            folder that ``datasets`` saved; ``hf:name`` or ``hf:name:split`` of the Hugging Face Hub (split: train).

    Raises:
        InputError: It is none of these, or has fewer than 2 classes, or no class with 2 images.
        MissingDependency: Hugging Face datasets are not installed.
    """
    text = str(source)
    if text.startswith("hf:"):
        name, _, split = text.removeprefix("hf:").partition(":")
        return _checked(_from_hub(text, name, split or "train"))
    path = Path(source)
    if not path.exists():
        raise InputError(f"dataset {text!r} does not exist; a folder, an .npz file or hf:name[:split] is allowed")
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise InputError(f"dataset {text!r} is a {path.suffix or 'nameless'} file; of files, .npz is allowed")
        return _checked(_npz(path))
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
        return _checked(_saved(path))
    return _checked(_folder(path))


def _checked(dataset: Dataset) -> Dataset:
    """Refuse labels that nothing can be learnt from, and warn about classes of one image."""
    if dataset.labels.ndim > 1:
        return dataset
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    present = [name for name, count in zip(dataset.classes, counts, strict=True) if count]
    if len(present) < 2:
        raise InputError(
            f"dataset {dataset.source!r} has 1 class ({present[0]}) in {len(dataset)} images; at least 2 are needed"
        )
    single = [name for name, count in zip(dataset.classes, counts, strict=True) if count == 1]
    if len(single) == len(present):
        raise InputError(f"dataset {dataset.source!r} has fewer than 2 images in every class; 2 or more are needed")
    if single:
        _log.warning("%d of %d classes have 1 image only: %s", len(single), len(present), ", ".join(single[:NAMED]))
    return dataset


# --- folders ----------------------------------------------------------------------------------------------------


def _folder(root: Path) -> Dataset:
    top = _subfolders(root)
    if "train" in top and set(top) <= SPLITS and _subfolders(root / "train"):
        root, top = root / "train", _subfolders(root / "train")
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = {name: _images(root / name, endings) for name in top}
    classes = tuple(name for name, files in found.items() if files)
    if not classes:
        raise InputError(f"dataset {str(root)!r} has no images in folders named after their classes, as in cat/1.png")
    if len(classes) < len(top):
        empty = [name for name, files in found.items() if not files]
        _log.warning("%d folders of %s have no images: %s", len(empty), root, ", ".join(empty[:NAMED]))
    files = [file for name in classes for file in found[name]]
    labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
    names = [file.relative_to(root).as_posix() for file in files]
    return Dataset(str(root), names, labels.astype(np.int64), classes, files)


def _subfolders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, endings: set[str]) -> list[Path]:
    files = [
        Path(where, name)
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in endings and not name.startswith(".")
    ]
    return sorted(files)


# --- npz --------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in ("images", "labels") if key not in file]
            if missing:
                raise InputError(f"dataset {str(path)!r} has keys {', '.join(file)} and lacks {' and '.join(missing)}")
            images, labels = file["images"], file["labels"]
    except InputError:
        raise
    except Exception as e:  # zipfile, zlib, numpy: a file that is cut or not what it says can raise nearly anything
        why = str(e).partition(" If you trust")[0]  # numpy goes on about an unsafe way, which is not on offer
        raise InputError(f"dataset {str(path)!r} cannot be read as npz: {why}") from e
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in MODES)):
        came = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"images of {str(path)!r} are {came}; uint8 [N, H, W] or [N, H, W, 1, 3 or 4] is allowed")
    if len(labels) != len(images) or not len(images):
        raise InputError(f"dataset {str(path)!r} has {len(images)} images and {len(labels)} labels")
    names = [f"{path.name}[{i}]" for i in range(len(images))]
    return Dataset(str(path), names, *_numbered(labels, str(path)), images)


def _numbered(labels: NDArray[Any], source: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as class numbers (words are numbered in their order) or multi-hot, and the names of the classes."""
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        return labels.astype(np.int64), tuple(map(str, range(labels.shape[1])))
    if labels.ndim == 1 and labels.dtype.kind in "US":
        words, numbers = np.unique(labels, return_inverse=True)
        return numbers.astype(np.int64), tuple(map(str, words))
    if labels.ndim == 1 and labels.dtype.kind in "biu" and labels.min() >= 0:
        return labels.astype(np.int64), tuple(map(str, range(int(labels.max()) + 1)))
    came = f"{labels.dtype} {list(labels.shape)}"
    raise InputError(f"labels of {source!r} are {came}; class numbers from 0 or words [N], or 0/1 [N, C], are allowed")


# --- Hugging Face datasets --------------------------------------------------------------------------------------


class _Column(Sequence[Any]):
    """Encoded images of a Hugging Face dataset, fetched one by one."""

    def __init__(self, table: Any, column: str) -> None:
        self.table = table
        self.column = column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        value = self.table[int(index)][self.column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"])


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as e:
        raise MissingDependency("Hugging Face datasets are not installed: install parc[datasets]") from e
    return datasets


def _from_hub(source: str, name: str, split: str) -> Dataset:
    library = _datasets()
    try:
        table = library.load_dataset(name, split=split)
    except Exception as e:  # network, hub, parsers, unknown split: no common base
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"dataset {source!r} cannot be had: {why}") from e
    return _table(source, table)


def _saved(path: Path) -> Dataset:
    try:
        table = _datasets().load_from_disk(str(path))
    except MissingDependency:
        raise
    except Exception as e:  # pyarrow's errors have no common base either
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"dataset {str(path)!r} cannot be read: {why}") from e
    if hasattr(table, "keys"):  # a DatasetDict
        split = "train" if "train" in table else next(iter(table))
        table = table[split]
    return _table(str(path), table)


def _table(source: str, table: Any) -> Dataset:
    library = _datasets()
    features = table.features
    pictures = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    if len(pictures) != 1 or not len(table):
        came = ", ".join(features) or "no column"
        raise InputError(f"dataset {source!r} has {len(pictures)} columns of images in {len(table)} rows ({came})")
    column = _label_column(source, features, library)
    encoded = table.select_columns(pictures).cast_column(pictures[0], library.Image(decode=False))
    names = [f"row {i}" for i in range(len(table))]
    labels, classes = _table_labels(source, table.with_format(None)[column], features[column], library)
    return Dataset(source, names, labels, classes, _Column(encoded, pictures[0]))


def _label_column(source: str, features: Any, library: Any) -> str:
    """The column called label(s), or else the first of class labels."""
    kinds = [name for name, kind in features.items() if isinstance(getattr(kind, "feature", kind), library.ClassLabel)]
    named = [name for name in ("label", "labels") if name in features]
    chosen = next(iter(named + kinds), None)
    if not named and len(kinds) > 1:
        _log.warning("dataset %s has several columns of labels (%s): %s is taken", source, ", ".join(kinds), chosen)
    if not chosen:
        raise InputError(f"dataset {source!r} has no column of labels among {', '.join(features)}")
    return chosen


def _table_labels(source: str, column: Any, kind: Any, library: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    inner = getattr(kind, "feature", None)
    if isinstance(inner, library.ClassLabel):  # several labels for an image
        hot = np.zeros((len(column), inner.num_classes), np.int64)
        for row, chosen in enumerate(column):
            hot[row, list(chosen)] = 1
        return hot, tuple(inner.names)
    labels = np.asarray(list(column))
    if not isinstance(kind, library.ClassLabel):
        return _numbered(labels, source)
    if labels.dtype.kind not in "iu" or labels.min() < 0:  # a test split without labels holds -1 or None
        raise InputError(f"dataset {source!r} has rows without a label")
    return labels.astype(np.int64), tuple(kind.names)


# --- the probe --------------------------------------------------------------------------------------------------


def draw(dataset: Dataset, budget: int = 500, runs: int = 1) -> list[Probe]:
    """Draw a probe for each run and open each of its images once.

    Args:
        dataset: What `load` gives.
        budget: Images at most, see `parc.sample_probe`.
        runs: How many probes, drawn with different seeds.

    Raises:
        InputError: Some of the images cannot be read; says how many and names the first.
    """
    if runs < 1:
        raise InputError(f"runs is {runs}; 1 or more are allowed")
    classes = len(dataset.classes)
    chosen = [sample_probe(dataset.labels, budget=budget, run=run, num_classes=classes) for run in range(runs)]
    if dataset.labels.ndim == 1 and any(len(set(dataset.labels[indices])) < 2 for indices in chosen):
        present = len(set(dataset.labels))
        raise InputError(f"budget={budget} draws 1 of {present} classes in {dataset.source!r}; at least 2 are needed")
    digests = _digests(dataset, sorted({int(i) for indices in chosen for i in indices}))
    return [_probe(dataset, run, indices, digests) for run, indices in enumerate(chosen)]


def _probe(dataset: Dataset, run: int, indices: NDArray[np.int64], digests: dict[int, str]) -> Probe:
    names = tuple(dataset.names[i] for i in indices)
    labels = dataset.labels[indices]
    whole = hashlib.sha256(f"{labels.shape} {len(dataset.classes)}\n".encode())
    whole.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    for index, name in zip(indices, names, strict=True):
        whole.update(f"{name}\n{digests[int(index)]}\n".encode())
    items = [dataset.items[int(i)] for i in indices]
    return Probe(run, names, labels, dataset.classes, items, whole.hexdigest())


def _digests(dataset: Dataset, indices: list[int]) -> dict[int, str]:
    """sha256 of each image's contents; each is decoded too, so that a bad one shows before any model runs."""

    def look(index: int) -> tuple[int, str, str]:
        try:
            contents = _contents(dataset.items[index])
            decode(contents)
        except InputError as e:
            return index, "", str(e)
        return index, hashlib.sha256(_bytes(contents)).hexdigest(), ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(track(pool.map(look, indices), "images", total=len(indices)))
    bad = [f"{dataset.names[index]} ({why})" for index, _, why in seen if why]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        listed = ", ".join(bad[:NAMED])
        raise InputError(f"{len(bad)} of {len(indices)} images of {dataset.source!r} cannot be read: {listed}{more}")
    return {index: digest for index, digest, _ in seen}


def _contents(item: Any) -> bytes | NDArray[np.uint8]:
    if not isinstance(item, Path):
        return item
    try:
        return item.read_bytes()
    except OSError as e:
        raise InputError(e.strerror or str(e)) from e


def _bytes(contents: bytes | NDArray[np.uint8]) -> bytes:
    if isinstance(contents, bytes):
        return contents
    return str(contents.shape).encode() + np.ascontiguousarray(contents).tobytes()


def decode(contents: bytes | NDArray[np.uint8]) -> Image.Image:
    """A PIL image of encoded bytes or of pixels.

    Raises:
        InputError: They are no image, or a part of one.
    """
    if not isinstance(contents, bytes):
        channels = contents.shape[2] if contents.ndim == 3 else 1
        return Image.fromarray(contents.reshape(contents.shape[:2]) if channels == 1 else contents)
    try:
        with Image.open(io.BytesIO(contents)) as image:
            image.load()
            return image.copy()
    except Exception as e:  # PIL's decoders raise nearly anything on a file that is cut or not what it says
        why = "not an image" if isinstance(e, UnidentifiedImageError) else str(e) or type(e).__name__
        raise InputError(why) from e
