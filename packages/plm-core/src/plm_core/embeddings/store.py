"""The table of embeddings, and the two forms in which it is written: safetensors and parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from plm_core.errors import InputError, MissingDependency
from plm_core.utils.files import atomic_path
from plm_core.utils.text import first_line
from plm_core.weights.files import sort_metadata

FORMAT = "plm-embeddings/1"
SAFETENSORS, PARQUET = ".safetensors", ".parquet"
STORES = ("float32", "float16")
"""The types of numbers in a file."""
LARGEST_HEADER = 99_000_000
"""Bytes that the header of a safetensors file may have, less some for the rest of it. Readers refuse larger ones."""
Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What embeddings were made by and from.

    Attributes:
        model: Name of the model, as `plm_core.create_model` takes it. That of a folder has its full path.
        folder: Full path of the folder of the images.
        weights: Digest of the model's architecture and weights, see `plm_core.embeddings.digests.weights_digest`.
        preprocessing: Digest of the preprocessing, see `plm_core.embeddings.digests.preprocessing_digest`.
        transforms: The transforms that were applied, as `plm_core.transforms.parse` reads them.
        dtype: Precision of the computation: fp32, bf16 or fp16.
        version: Version of plm-core.
    """

    model: str
    folder: str
    weights: str
    preprocessing: str
    transforms: tuple[str, ...] = ()
    dtype: str = "fp32"
    version: str = metadata.version("plm-core")

    def as_metadata(self) -> dict[str, str]:
        """Return all of it as texts by name, for the metadata of a file."""
        return {
            "format": FORMAT,
            "model": self.model,
            "folder": json.dumps(self.folder),  # as JSON, since a path need not be valid Unicode
            "weights": self.weights,
            "preprocessing": self.preprocessing,
            "transforms": json.dumps(self.transforms),
            "dtype": self.dtype,
            "plm_core": self.version,
        }

    @classmethod
    def from_metadata(cls, texts: Mapping[str, str]) -> Provenance:
        """Return what `as_metadata` has turned into texts.

        Raises:
            KeyError, ValueError: The texts are not those of embeddings.
        """
        if texts["format"] != FORMAT:
            raise ValueError(f"its format is {texts['format']!r}, not {FORMAT!r}")
        return cls(
            model=texts["model"],
            folder=json.loads(texts["folder"]),
            weights=texts["weights"],
            preprocessing=texts["preprocessing"],
            transforms=tuple(json.loads(texts["transforms"])),
            dtype=texts["dtype"],
            version=texts["plm_core"],
        )


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of N images, each a row of D numbers.

    Attributes:
        vectors: The embeddings, float32 or float16 [N, D].
        paths: The path of the image of each row, below the folder, with ``/`` between its parts.
        provenance: The model and the folder, and how the model was run.

    Raises:
        InputError: The vectors have another shape or type, or there is not one path for each.

    Example:
        >>> import numpy as np
        >>> from plm_core.embeddings import Embeddings, Provenance
        >>> made_by = Provenance(model="test_vit", folder="/photos", weights="0", preprocessing="0")
        >>> path = Embeddings(np.zeros((2, 64), np.float16), ["a.jpg", "b.jpg"], made_by).save("x.safetensors")
        >>> table = Embeddings.load(path)
        >>> table.model, table.paths, table.vectors.shape
        ('test_vit', ['a.jpg', 'b.jpg'], (2, 64))
    """

    vectors: Vectors
    paths: list[str]
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or str(self.vectors.dtype) not in STORES:
            kind = f"{self.vectors.dtype} {list(self.vectors.shape)}"
            raise InputError(f"vectors are {kind}; float32 or float16 [N, D] is expected")
        if len(self.paths) != len(self.vectors):
            raise InputError(f"there are {len(self.paths)} paths for {len(self.vectors)} vectors; one each is expected")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def model(self) -> str:
        """The name of the model, as `plm_core.create_model` takes it."""
        return self.provenance.model

    @property
    def files(self) -> list[Path]:
        """The file of each row, where it was when the embeddings were made."""
        return [Path(self.provenance.folder, path) for path in self.paths]

    def save(self, path: str | Path) -> Path:
        """Write the table completely or not at all, and return the path.

        Args:
            path: Path that ends in ``.safetensors`` or ``.parquet``.

        Raises:
            InputError: The path ends otherwise, or the paths do not fit into such a file, see `check_output`.
            MissingDependency: pyarrow is needed for parquet and is not installed.
            FileError: The file cannot be written.
        """
        path = check_output(path, self.paths)
        write = _write_parquet if ending_of(path) == PARQUET else _write_safetensors
        with atomic_path(path) as part:
            write(self, part)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read a table.

        Raises:
            InputError: The file does not exist, cannot be read, or holds no embeddings of plm.
            MissingDependency: pyarrow is needed for parquet and is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"embeddings {str(path)!r} cannot be read: there is no such file")
        read = _read_parquet if ending_of(path) == PARQUET else _read_safetensors
        try:
            vectors, paths, texts = read(path)
            return cls(vectors, paths, Provenance.from_metadata(texts))
        except KeyError as e:
            raise InputError(f"file {str(path)!r} holds no embeddings of plm embed: it has no {e.args[0]!r}") from e
        except (OSError, ValueError, SafetensorError) as e:  # an error of pyarrow is one of the first two
            why = getattr(e, "strerror", None) or first_line(e)
            raise InputError(f"embeddings {str(path)!r} cannot be read: {why}") from e


def ending_of(path: Path) -> str:
    """Return the ending of a file of embeddings in lower case.

    Raises:
        InputError: It is another one.
    """
    ending = path.suffix.lower()
    if ending not in (SAFETENSORS, PARQUET):
        raise InputError(f"path {str(path)!r} does not end in {SAFETENSORS} or {PARQUET}")
    return ending


def check_output(path: str | Path, paths: Sequence[str]) -> Path:
    """Return the path of a file to write, if a table with these paths can be written to it.

    Raises:
        InputError: The path has another ending or is a folder, a path of an image is not valid Unicode, which parquet
            requires, or the paths are too long together for the header of a safetensors file.
        MissingDependency: pyarrow is needed for parquet and is not installed.
    """
    path = Path(path)
    ending = ending_of(path)
    if path.is_dir():
        raise InputError(f"path {str(path)!r} is a folder; the file to write is expected")
    if ending == PARQUET:
        _pyarrow()
        broken = next((name for name in paths if not _is_unicode(name)), None)
        if broken is not None:
            raise InputError(f"path {broken!r} is not valid Unicode, which parquet requires: write {SAFETENSORS}")
    elif (size := len(json.dumps(json.dumps(list(paths))))) > LARGEST_HEADER:
        raise InputError(f"the {len(paths)} paths take {size} bytes, too many for {SAFETENSORS}: write {PARQUET}")
    return path


def write_tensor(vectors: Vectors, path: Path, texts: dict[str, str]) -> None:
    """Write vectors to a safetensors file as the tensor ``embeddings``, with texts as its metadata.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        save_file({"embeddings": np.ascontiguousarray(vectors)}, path, texts)
    except SafetensorError as e:
        raise OSError(first_line(e)) from e
    sort_metadata(path)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_safetensors(table: Embeddings, path: Path) -> None:
    texts = table.provenance.as_metadata() | {"paths": json.dumps(table.paths)}
    write_tensor(table.vectors, path, texts)


def _read_safetensors(path: Path) -> tuple[Vectors, list[str], Mapping[str, str]]:
    with safe_open(path, "numpy") as file:
        texts = file.metadata() or {}
        paths = json.loads(texts["paths"])
        return file.get_tensor("embeddings"), paths, texts


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its module for parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as e:
        raise MissingDependency("parquet needs pyarrow: install plm-core[parquet]") from e
    return pyarrow, pyarrow.parquet


def _write_parquet(table: Embeddings, path: Path) -> None:
    arrow, parquet = _pyarrow()
    numbers = arrow.array(table.vectors.reshape(-1))
    columns = {
        "path": arrow.array(table.paths, arrow.string()),
        "embedding": arrow.FixedSizeListArray.from_arrays(numbers, table.vectors.shape[1]),
    }
    parquet.write_table(arrow.table(columns).replace_schema_metadata(table.provenance.as_metadata()), path)


def _read_parquet(path: Path) -> tuple[Vectors, list[str], Mapping[str, str]]:
    _, parquet = _pyarrow()
    rows = parquet.ParquetFile(path).read()
    texts = {key.decode(): text.decode() for key, text in (rows.schema.metadata or {}).items()}
    if texts.get("format") != FORMAT:
        raise KeyError("format")
    column = rows.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), column.type.list_size)
    return vectors, rows.column("path").to_pylist(), texts
