"""The rows to train on, and those that are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plm_core.datasets.conversations import REGISTRIES, find_conversations
from plm_core.errors import InputError
from plm_core.lm.data.mixing import Mixture, parse_mix, shuffled
from plm_core.lm.data.registry import load_registry
from plm_core.lm.data.rows import Row
from plm_core.lm.data.samples import IndexedRows
from plm_core.lm.data.sources import JsonRows, Rows
from plm_core.lm.recipes.tables import StageConfig
from plm_core.utils.near_misses import miss

DATA = "data"
"""The name of the only source where there is no registry."""


class Part(Rows):
    """Some rows of a source, in a random order.

    Args:
        rows: The source.
        first: The place of the first row in that order.
        count: The number of rows.
        seed: Random seed of the order.
    """

    def __init__(self, rows: Rows, first: int, count: int, seed: int) -> None:
        self.source, self.root = rows.source, rows.root
        self.rows = rows
        self.first = first
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def place(self, index: int) -> str:
        """Return where a row is, for messages."""
        return self.rows.place(self._row(index))

    def record(self, index: int) -> Any:
        """Return a row as it is written."""
        return self.rows.record(self._row(index))

    def __getitem__(self, index: int) -> Row:
        return self.rows[self._row(index)]

    def _row(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"row {index} of a part of {self.count}")
        return shuffled(self.first + index, len(self.rows), (self.seed,))


@dataclass(frozen=True)
class Split:
    """The rows of a training.

    Attributes:
        train: The rows to train on.
        held_out: The rows to judge the training on; None if there are none.
        config: The configuration for these rows, whose epochs are passes over ``train``.
        epochs: Passes over the data of which ``train`` is one pass, for mixes; else 1.
        found: The data in words.
    """

    train: IndexedRows
    held_out: IndexedRows | None
    config: StageConfig
    epochs: float
    found: str


def split_rows(source: str, config: StageConfig, seed: int) -> Split:
    """Open a source and split it.

    The rows of one source are used once in each epoch. Those of a registry are drawn by the weights of the mix: an
    epoch draws as many as the sources have together, and each other epoch draws others.

    Args:
        source: See `plm_core.datasets.conversations.find_conversations`.
        config: What ``mix`` and ``held_out`` are. The epochs of its recipe say how many rows a mix needs.
        seed: Random seed.

    Raises:
        InputError: The data cannot be read, are too few to hold any out, or ``mix`` does not fit them.
    """
    files, validation = find_conversations(Path(source)) or ([], None)
    if not files:
        raise InputError(f"data {source!r} holds no conversations")
    registry = files[0].suffix.lower() in REGISTRIES
    if config.mix is not None and not registry:
        raise InputError(f"mix {config.mix!r} is for the sources of a registry (.yaml), and data {source!r} is none")
    sources, weights = _registered(files[0], config.mix) if registry else ({DATA: JsonRows(files)}, {})
    share = 0.0 if validation else config.held_out
    counts = {name: _number(len(rows), share) for name, rows in sources.items()}
    parts = {name: Part(rows, 0, len(rows) - counts[name], seed) for name, rows in sources.items()}
    total = sum(map(len, parts.values()))
    held_out = JsonRows([validation]) if validation else _held_out(sources, counts, seed)
    said = "no held-out ones" if held_out is None else f"{len(held_out)} held-out ones"
    found = f"{total} conversations" + (f" of {len(parts)} sources" if registry else "") + f", {said}"
    if not registry:
        return Split(parts[DATA], held_out, config, 1.0, found)
    epochs = config.recipe.epochs
    rows = Mixture(parts, weights or {name: len(part) for name, part in parts.items()}, round(total * epochs), seed)
    return Split(rows, held_out, _in_one_pass(config), epochs, found)


def _registered(path: Path, mix: str | None) -> tuple[dict[str, Rows], dict[str, float]]:
    """Return the sources of a registry that a mix names, or all of them, and their weights if there are any."""
    entries = load_registry(path)
    weights = {} if mix is None else parse_mix(mix)
    for name in weights:
        if name not in entries:
            raise InputError(f"registry {str(path)!r}: {miss('dataset', name, entries)}")
    return {name: entries[name].open() for name in weights or entries}, weights


def _number(rows: int, share: float) -> int:
    """Return the number of rows that are held out: at least one if there is a share.

    Raises:
        InputError: None would be left to train on.
    """
    count = max(1, round(share * rows)) if share else 0
    if count >= rows:
        raise InputError(f"a source has {rows} rows, of which {count} would be held out: held_out=0 holds out none")
    return count


def _held_out(sources: Mapping[str, Rows], counts: Mapping[str, int], seed: int) -> IndexedRows | None:
    parts = {name: Part(rows, len(rows) - counts[name], counts[name], seed) for name, rows in sources.items()}
    parts = {name: part for name, part in parts.items() if len(part)}
    if len(parts) < 2:
        return next(iter(parts.values()), None)
    return Mixture(parts, {name: len(part) for name, part in parts.items()}, seed=seed)


def _in_one_pass(config: StageConfig) -> StageConfig:
    """Return a configuration for rows that are those of the whole training."""
    recipe = config.recipe
    return replace(config, recipe=replace(recipe, epochs=1.0, warmup_epochs=recipe.warmup_epochs / recipe.epochs))
