"""Tensors read from and written to files: safetensors, or pickles that can run no code, whole or not at all."""

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

# Wrappers around the state dict in checkpoints: Hiera, SAM 2, Lightning and others, MAE, timm's training script.
WRAPPERS = ("model_state", "model", "state_dict", "state_dict_ema")


def read(source: str | Path | State, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a file, of a folder with model.safetensors, or of a repository on the Hub.

    Args:
        source: A path, ``[hf-hub:]org/name[@revision]`` (an existing path wins), or a dict of tensors, which is copied.
        allow_pickle: Also read .bin, .pt and .pth, with torch's ``weights_only=True``: nothing in them is executed.

    Raises:
        WeightsError: Not there, corrupt, a pickle, or a pickle that wants to run code.
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
    where = HubFile.parse(source) if isinstance(source, str) else None
    if where is not None:
        announce_repo(where.repo, registry().declared(Model))
    if where is None or str(source).endswith((".safetensors", *PICKLES)):
        raise WeightsError(f"source {str(source)!r} is neither a file nor a repository 'org/name[@revision]'")
    return fetch(where)


def _read_pickle(path: Path) -> Any:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if wanted := re.search(r"GLOBAL (\S+)", str(e)):
            raise WeightsError(
                f"{path} is refused: it holds more than tensors ({wanted[1]}) and could run code when read"
            ) from e
        detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(e))
        raise WeightsError(
            f"{path} cannot be read as a pickle of tensors only" + (f": {detail[1]}" if detail else "")
        ) from e
    except Exception as e:  # torch raises RuntimeError, EOFError, KeyError ... on files that are cut or not its own
        raise WeightsError(f"{path} cannot be read as a torch checkpoint: {type(e).__name__}") from e
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            return loaded[wrapper]
    return loaded


def check_state(state: Any, what: str) -> dict[str, Tensor]:
    """Return ``state`` as a dict; raise WeightsError, naming ``what``, unless it is one of tensors by name."""
    wrong = "not a dict" if not isinstance(state, dict) else None
    if wrong is None:
        wrong = next((repr(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))), None)
    if wrong is not None:
        raise WeightsError(f"{what} is not a dict of tensors by name ({wrong})")
    return dict(state)


def write(state: State, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; dtypes are kept, views are made contiguous.

    Raises:
        InputError: The path does not end in .safetensors.
        WeightsError: It cannot be written; what stood there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path {str(path)!r} must end in .safetensors")
    try:
        # clone: views of one storage (a split projection) are separate tensors in a file
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        with atomic_path(path) as part:
            save_file(tensors, part, metadata={"format": "pt", **(metadata or {})})
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:  # the latter two for sparse and meta tensors
        raise WeightsError(str(e) if isinstance(e, FileError) else f"cannot write {path}: {e}") from e
