"""What a model folder tells about its model: the facts of its config and the record of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from plm_core.datasets import Dataset, digest
from plm_core.datasets.splits import HOLDOUT, hold_out
from plm_core.errors import InputError
from plm_core.hub import CONFIG_FILE, RECORD_FILE, read_config
from plm_core.model_config import read_json
from plm_core.utils.files import existing_folder
from plm_core.utils.licenses import is_non_commercial

MAX_LABELS = 20
"""Number of class names that are listed."""


def folder_facts(name: str) -> dict[str, Any]:
    """Return what a model folder tells, by title; nothing if the name is not that of one.

    They are the architecture, the task, the names of the classes and the license of the weights, and for a folder that
    ``plm train`` left the recipe, the data and the scores too.

    Args:
        name: The path of a folder, with or without ``local-dir:``.
    """
    folder = existing_folder(name.removeprefix("local-dir:"))
    if folder is None or not (folder / CONFIG_FILE).is_file():
        return {}
    config: Mapping[str, Any] = {}
    record: Mapping[str, Any] = {}
    with suppress(InputError):
        config = read_config(folder)
    with suppress(ValueError):
        record = read_json(folder / RECORD_FILE)
    ours, weights = _part(config, "plm"), _part(config, "pretrained_cfg")
    license = str(weights.get("license") or "")
    labels = config.get("label_names") or weights.get("label_names") or ()
    facts = {
        "architecture": config.get("architecture"),
        "task": ours.get("task"),
        "class names": _listed(list(labels.values() if isinstance(labels, Mapping) else labels)),
        "license of the weights": f"{license}{' NON-COMMERCIAL USE ONLY' * is_non_commercial(license)}",
        "recipe": ours.get("recipe"),
        "data": record.get("found"),
        **{str(name): f"{score:.4g}" for name, score in _part(record, "scores").items() if isinstance(score, float)},
    }
    return {title: fact for title, fact in facts.items() if fact}


def trained_on(folder: Path, data: Dataset) -> int:
    """Return on how many of some images or videos the model of a folder was trained, as far as that can be known.

    ``plm train`` records the digest of the names and the labels that it trained on. They are compared with all of the
    data, and with what a training on them would not have held out.

    Args:
        folder: A model folder.
        data: The images or videos.

    Returns:
        The number, or 0 if nothing is known.
    """
    record: Mapping[str, Any] = {}
    with suppress(ValueError):
        record = read_json(folder / RECORD_FILE)
    known, seed = record.get("data_digest"), record.get("seed")
    if not isinstance(known, str) or not isinstance(seed, int):
        return 0
    if digest(data) == known:
        return len(data)
    kept = data.take(hold_out(data.labels, seed, HOLDOUT)[0])
    return len(kept) if digest(kept) == known else 0


def _part(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = data.get(key)
    return part if isinstance(part, Mapping) else {}


def _listed(labels: Sequence[Any]) -> str:
    more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    return ", ".join(map(str, labels[:MAX_LABELS])) + more
