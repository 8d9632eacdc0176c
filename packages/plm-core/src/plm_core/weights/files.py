"""Reading and writing the tensors of a file: safetensors, or pickles with tensors only, which can run no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from plm_core.errors import FileError, InputError, WeightsError
from plm_core.hookspecs import Model, Pretrained
from plm_core.hub import INDEX_FILE, PICKLES, WEIGHTS_FILE, HubFile, fetch_weights, shards_of
from plm_core.layouts import State
from plm_core.registry import registry
from plm_core.utils.arguments import check_type
from plm_core.utils.files import atomic_path
from plm_core.utils.licenses import announce_license, announce_repo
from plm_core.utils.references import shipped_file
from plm_core.utils.text import first_line, shown
from plm_core.weights.checks import check_state, check_values
from plm_core.weights.pickles import read_pickle, unwrap

INDEX_ENDING = ".safetensors.index.json"


def read(
    source: str | Path | State, allow_pickle: bool = False, *, ema: bool | None = None, key: str | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a file, of a folder with model.safetensors, or of a repository on the Hub.

    The weights of a large model may be in several files, with an index ``model.safetensors.index.json``.

    Args:
        source: A path, ``[hf-hub:]org/name[@revision]``, the name of declared weights such as
            ``hiera_micro_digits.sklearn_digits`` (an existing path takes precedence), or a dict of tensors, of which a
            shallow copy is returned.
        allow_pickle: Also read .bin, .pt and .pth files, with torch's ``weights_only=True``, which runs no code.
        ema: True for the moving average of the weights in a pickle, False for the weights themselves, None for the
            average if there is one.
        key: The key under which a pickle holds the weights, if it is an unusual one.

    Raises:
        InputError: The source is of another type, or the pickle has no such weights.
        WeightsError: The file does not exist, is corrupt, is a pickle, or is a pickle that would run code.

    Example:
        >>> import tempfile, torch
        >>> from plm_core import weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weights.write({"scale": torch.ones(2)}, f"{folder}/scale.safetensors")
        ...     weights.read(f"{folder}/scale.safetensors")
        {'scale': tensor([1., 1.])}
    """
    check_type("source", source, str | Path | Mapping, "a path, a repository or a dict of tensors")
    if isinstance(source, Mapping):
        return check_state(source, "the dict")
    path = _locate(source)
    if path.suffix in PICKLES:
        if not allow_pickle:
            raise WeightsError(
                f"{path} is a pickle and is not read; make it safetensors first: plm convert {path.name} ..."
            )
        return check_state(unwrap(read_pickle(path), str(path), ema, key), str(path))
    if ema is not None or key is not None:
        raise InputError(f"{path} is no pickle of a training script: it has one set of weights, and no keys above them")
    if path.name.endswith(INDEX_ENDING):
        return {
            key: value
            for shard in shards_of(path)
            for key, value in _tensors(_present(path.parent / shard, path)).items()
        }
    return _tensors(path)


def _present(path: Path, index: Path) -> Path:
    if not path.is_file():
        raise WeightsError(f"{index} names {path.name}, which is not beside it")
    return path


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise WeightsError(f"{path} is not a readable safetensors file: {shown(str(e), 300)}") from e


def _locate(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        index = path / INDEX_FILE
        path = index if index.is_file() and not (path / WEIGHTS_FILE).is_file() else path / WEIGHTS_FILE
        if not path.is_file():
            raise WeightsError(f"folder {str(source)!r} has no {WEIGHTS_FILE}")
    if path.is_file():
        return path
    if isinstance(source, str) and (declared := _declared(source)):
        model, weights = declared
        announce_license(model, weights)
        if weights.repo is None:
            return shipped_file(weights.file)
        return fetch_weights(HubFile(weights.repo, weights.revision, weights.file))
    hub_file = HubFile.parse(source) if isinstance(source, str) else None
    if hub_file is not None:
        announce_repo(hub_file.repo, registry().declared(Model))
    if hub_file is None or str(source).endswith((".safetensors", *PICKLES)):
        raise WeightsError(f"source {str(source)!r} is neither a file nor a repository 'org/name[@revision]'")
    return fetch_weights(hub_file)


def _declared(source: str) -> tuple[Model, Pretrained] | None:
    """Return the model and the weights that are declared as ``name.tag``."""
    name, _, tag = source.partition(".")
    model = registry().all(Model).get(name) if tag else None
    entries = model.declaration.pretrained if model else ()
    return next(((model.declaration, entry) for entry in entries if model and entry.tag == tag), None)


def write(state: State, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, whole or not at all. Dtypes are kept, and views become contiguous.

    The same tensors and metadata give the same bytes.

    Args:
        state: Tensors by name.
        path: A path that ends in .safetensors.
        metadata: Further entries for the header of the file.

    Raises:
        InputError: The path does not end in .safetensors, or an argument is of another type.
        WeightsError: The tensors or the file cannot be written. A file that was there before is unchanged.
    """
    path = safetensors_path("path", path)
    check_type("state", state, Mapping, "a dict of tensors")
    check_type("metadata", metadata, Mapping | None, "a dict of text")
    if wrong := [item for item in (metadata or {}).items() if not all(isinstance(part, str) for part in item)]:
        raise InputError(f"metadata has {shown(repr(wrong[0]))}; text by names is expected")
    try:
        with atomic_path(path) as part:
            store(state, part, metadata or {})
    except FileError as e:
        raise WeightsError(str(e)) from e
    except WeightsError as e:
        raise WeightsError(f"cannot write {path}: {e}") from e


def safetensors_path(name: str, path: str | Path) -> Path:
    """Return a path to write tensors to.

    Args:
        name: Name of the argument.
        path: Its value.

    Raises:
        InputError: It does not end in .safetensors.
    """
    check_type(name, path, str | Path, "a path")
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{name} {str(path)!r} must end in .safetensors")
    return Path(path)


def store(state: State, part: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors to a temporary file of `atomic_path`, in which a write may fail half-way.

    Raises:
        WeightsError: A tensor has no values, or is sparse or of another odd kind.
        OSError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = check_state(state, "the state dict")
    for key, value in state.items():
        check_values(key, value)
    try:
        # clone, since views of one storage (a split projection) must become separate tensors in the file
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    except RuntimeError as e:  # a small tensor may be seen as a large one
        raise WeightsError(f"the state dict does not fit into the memory: {first_line(e)}") from e
    try:
        save_file(tensors, part, metadata={"format": "pt", **metadata})
    except SafetensorError as e:
        raise OSError(str(e)) from e
    sort_metadata(part)


def sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file, which safetensors writes in random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        if len(ordered) == size:  # it is the same JSON in another order
            file.seek(8)
            file.write(ordered)
