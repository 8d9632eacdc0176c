"""Reading and writing the tensors of a file: safetensors, or pickles with tensors only, which can run no code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm_core.errors import FileError, InputError, WeightsError
from plm_core.hookspecs import Model
from plm_core.hub import PICKLES, WEIGHTS_FILE, HubFile, fetch
from plm_core.layouts import State
from plm_core.registry import registry
from plm_core.utils.files import atomic_path
from plm_core.utils.licenses import announce_repo

# Keys under which checkpoints hold the state dict: Hiera; SAM 2 and MAE; Lightning and others; timm's training script.
WRAPPERS = ("model_state", "model", "state_dict", "state_dict_ema")


def read(source: str | Path | State, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a file, of a folder with model.safetensors, or of a repository on the Hub.

    Args:
        source: A path, ``[hf-hub:]org/name[@revision]`` (an existing path takes precedence), or a dict of tensors, of
            which a shallow copy is returned.
        allow_pickle: Also read .bin, .pt and .pth files, with torch's ``weights_only=True``, which runs no code.

    Raises:
        WeightsError: The file does not exist, is corrupt, is a pickle, or is a pickle that would run code.

    Example:
        >>> import tempfile, torch
        >>> from plm_core import weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weights.write({"scale": torch.ones(2)}, f"{folder}/scale.safetensors")
        ...     weights.read(f"{folder}/scale.safetensors")
        {'scale': tensor([1., 1.])}
    """
    if isinstance(source, Mapping):
        return check_state(dict(source), "the dict")
    path = _locate(source)
    if path.suffix in PICKLES:
        if not allow_pickle:
            raise WeightsError(
                f"{path} is a pickle and is not read; make it safetensors first: plm convert {path.name} ..."
            )
        return check_state(_read_pickle(path), str(path))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise WeightsError(f"{path} is not a readable safetensors file: {e}") from e


def _locate(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS_FILE
        if not path.is_file():
            raise WeightsError(f"folder {str(source)!r} has no {WEIGHTS_FILE}")
    if path.is_file():
        return path
    hub_file = HubFile.parse(source) if isinstance(source, str) else None
    if hub_file is not None:
        announce_repo(hub_file.repo, registry().declared(Model))
    if hub_file is None or str(source).endswith((".safetensors", *PICKLES)):
        raise WeightsError(f"source {str(source)!r} is neither a file nor a repository 'org/name[@revision]'")
    return fetch(hub_file)


def _read_pickle(path: Path) -> Any:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if global_name := re.search(r"GLOBAL (\S+)", str(e)):
            raise WeightsError(
                f"{path} is refused: it holds more than tensors ({global_name[1]}) and could run code when read"
            ) from e
        detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(e))
        raise WeightsError(
            f"{path} cannot be read as a pickle of tensors only" + (f": {detail[1]}" if detail else "")
        ) from e
    except Exception as e:  # torch raises RuntimeError, EOFError, KeyError and others on truncated or foreign files
        raise WeightsError(f"{path} cannot be read as a torch checkpoint: {type(e).__name__}") from e
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            return loaded[wrapper]
    return loaded


def check_state(state: Any, what: str) -> dict[str, Tensor]:
    """Return ``state`` as a dict, or raise a WeightsError that names ``what`` unless it maps names to tensors."""
    wrong = "not a dict" if not isinstance(state, dict) else None
    if wrong is None:
        wrong = next((repr(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))), None)
    if wrong is not None:
        raise WeightsError(f"{what} is not a dict of tensors by name ({wrong})")
    return dict(state)


def write(state: State, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, whole or not at all. Dtypes are kept, and views become contiguous.

    Args:
        state: Tensors by name.
        path: A path that ends in .safetensors.
        metadata: Further entries for the header of the file.

    Raises:
        InputError: The path does not end in .safetensors.
        WeightsError: The file cannot be written. A file that was there before is unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path {str(path)!r} must end in .safetensors")
    try:
        # clone, since views of one storage (a split projection) must become separate tensors in the file
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        with atomic_path(path) as part:
            save_file(tensors, part, metadata={"format": "pt", **(metadata or {})})
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:  # the last two are for sparse and meta tensors
        raise WeightsError(str(e) if isinstance(e, FileError) else f"cannot write {path}: {e}") from e
