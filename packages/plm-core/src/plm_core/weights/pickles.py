"""Checkpoints of training scripts: pickles of tensors, read without running code, and the weights inside them."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from plm_core.errors import InputError, WeightsError
from plm_core.utils.text import shown

# Keys under which checkpoints hold the state dict: Lightning and timm; SAM 2, MAE and torchvision; Hiera; others.
WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "net")
# Those of the moving average of the weights: timm; DeiT and torchvision; others.
EMA_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict")

_log = logging.getLogger("plm_core")


def read_pickle(path: Path) -> Any:
    """Read a pickle with torch's ``weights_only=True``, which runs no code.

    ``argparse.Namespace``, a bag of values in which training scripts keep their settings, is read too.

    Raises:
        WeightsError: The file cannot be read, holds more than tensors, or would take more memory than its size.
    """
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if global_name := re.search(r"GLOBAL (\S+)", str(e)):
            name = shown(global_name[1])
            raise WeightsError(
                f"{path} is refused: it holds more than tensors ({name}) and could run code when read"
            ) from e
        detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(e))
        raise WeightsError(
            f"{path} cannot be read as a pickle of tensors only" + (f": {shown(detail[1])}" if detail else "")
        ) from e
    except Exception as e:  # torch raises RuntimeError, EOFError, KeyError and others on truncated or foreign files
        raise WeightsError(f"{path} cannot be read as a torch checkpoint: {type(e).__name__}") from e


def _check_archive(path: Path) -> None:
    """Refuse an archive whose parts are larger than the file: torch stores them as they are, one after the other."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # an older pickle, or no archive: torch says what is wrong with it
        return
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(f"{path} is refused: its parts are compressed or overlap, which torch never writes")


def unwrap(checkpoint: Any, what: str, ema: bool | None = None, key: str | None = None) -> Any:
    """Return the state dict inside a checkpoint, or the checkpoint itself if it has none of the known keys.

    Args:
        checkpoint: What a file holds.
        what: The file in words.
        ema: True for the moving average of the weights, False for the weights themselves, None for the average if
            there is one. A logged line says so if both are there.
        key: The key of the state dict, for a checkpoint with an unusual one.

    Raises:
        InputError: There is nothing under ``key``, or no moving average.
    """
    nested = {k: v for k, v in checkpoint.items() if isinstance(v, dict) and v} if isinstance(checkpoint, dict) else {}
    average = next((name for name in EMA_WRAPPERS if name in nested), None)
    plain = next((name for name in WRAPPERS if name in nested), None)
    if key is None and ema and average is None:
        raise InputError(f"{what} has no moving average of its weights{_listed(nested)}")
    if key is not None and key not in nested:
        raise InputError(f"{what} has no weights under key {key!r}{_listed(nested)}")
    if key is None and ema is None and average and plain:
        _log.warning(
            "%s has weights (%s) and their moving average (%s): the average is taken, as timm does",
            *(what, plain, average),
        )
    chosen = key or (average if ema is not False else None) or plain
    if chosen is None:
        return checkpoint
    # torch's AveragedModel counts its steps beside the weights
    return {name: value for name, value in nested[chosen].items() if name != "n_averaged"}


def _listed(nested: dict[Any, Any]) -> str:
    names = ", ".join(shown(str(name)) for name in list(nested)[:8])
    return f"; there are: {names}" if names else ""
