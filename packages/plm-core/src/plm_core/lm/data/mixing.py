"""Several sources as one, each with a weight. An index and the seed alone choose the source and the row.

So the order is the same in every process, and a training that is resumed goes on with the rows that it would have read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError
from plm_core.lm.data.registry import load_registry
from plm_core.lm.data.rows import Row
from plm_core.lm.data.sources import Rows
from plm_core.utils.near_misses import miss
from plm_core.utils.text import first_line, shown

BLOCK = 4096
"""The number of indices whose sources are drawn at a time."""
ROUNDS = 4
"""The rounds of the cipher that shuffles the rows of a source."""


class Mixture(Sequence[Row]):
    """Rows of several sources.

    For each index a source is drawn by its weight. The rows of a source are used in passes: each row once in a pass,
    in an order that is another for each pass.

    Args:
        sources: The sources by name.
        weights: A weight above 0 for each of them. They need not add up to 1.
        length: The number of rows (default: the rows of all sources together). A training of n steps reads n times its
            batch size; it should be one epoch of that length, since a second one would read the same rows again.
        seed: Random seed.

    Raises:
        InputError: A weight is not allowed, or there is one without a source or a source without one.
    """

    def __init__(
        self, sources: Mapping[str, Rows], weights: Mapping[str, float], length: int | None = None, seed: int = 0
    ) -> None:
        if not sources or set(sources) != set(weights):
            raise InputError(f"weights are for {', '.join(weights) or 'nothing'}; sources: {', '.join(sources)}")
        for name, weight in weights.items():
            _check_weight(name, weight)
        if length is not None and length < 1:
            raise InputError(f"length {length} is not allowed: 1 or more is")
        self.names = tuple(sources)
        self.sources = tuple(sources.values())
        self.seed = seed
        self._length = sum(map(len, self.sources)) if length is None else length
        shares = np.cumsum([float(weights[name]) for name in self.names])
        self._edges = shares[:-1] / shares[-1]
        self._before = [
            np.zeros(len(self.names), np.int64)
        ]  # for each block, how often each source was drawn before it
        self._block: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self._length

    def choice(self, index: int) -> tuple[str, int, int]:
        """Return the name of the source of an index, the row in it, and the number of the pass through it."""
        block, place = divmod(index, BLOCK)
        while len(self._before) <= block:
            counts = np.bincount(self._drawn(len(self._before) - 1), minlength=len(self.names))
            self._before.append(self._before[-1] + counts)
        drawn = self._drawn(block)
        source = int(drawn[place])
        number = int(self._before[block][source] + np.count_nonzero(drawn[:place] == source))
        count = len(self.sources[source])
        turn, row = divmod(number, count)
        return self.names[source], shuffled(row, count, (self.seed, source, turn)), turn

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # slices of millions of rows are of no use
        """Return a row.

        Raises:
            InputError: There is something wrong with it. The message names it.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a mixture of {len(self)}")
        name, row, _ = self.choice(index)
        return self.sources[self.names.index(name)][row]

    def place(self, index: int) -> str:
        """Return where a row is, for messages."""
        name, row, _ = self.choice(index)
        return self.sources[self.names.index(name)].place(row)

    def _drawn(self, block: int) -> NDArray[np.int64]:
        """Return the numbers of the sources of the indices in a block."""
        if self._block[0] != block:
            draws = np.random.default_rng((self.seed, block)).random(BLOCK)
            self._block = block, np.searchsorted(self._edges, draws, "right")
        return self._block[1]


def load_mixture(registry: str | Path, mix: str, length: int | None = None, seed: int = 0) -> Mixture:
    """Return a mixture of the sources in a registry.

    Args:
        registry: A YAML file, see `plm_core.lm.data.registry.load_registry`.
        mix: See `parse_mix`.
        length: As for `Mixture`.
        seed: As for `Mixture`.

    Raises:
        InputError: The registry or a source cannot be read, or ``mix`` is not allowed.
    """
    entries, weights = load_registry(registry), parse_mix(mix)
    for name in weights:
        if name not in entries:
            raise InputError(f"registry {str(registry)!r}: {miss('dataset', name, entries)}")
    return Mixture({name: entries[name].open() for name in weights}, weights, length, seed)


def parse_mix(text: str) -> dict[str, float]:
    """Return the weights in ``name:weight,name:weight``.

    Raises:
        InputError: The text is not of that form, or has a name twice.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, colon, weight = part.strip().rpartition(":")
        if not (name and colon):
            raise InputError(f"mix {shown(repr(text))} has {shown(repr(part))}; name:weight,name:weight is allowed")
        if name in weights:
            raise InputError(f"mix {shown(repr(text))} has {shown(repr(name))} twice")
        try:
            weights[name] = float(weight)
        except ValueError as e:
            raise InputError(f"mix: the weight of {shown(name)} is no number: {first_line(e)}") from e
        _check_weight(name, weights[name])
    return weights


def shuffled(place: int, count: int, key: tuple[int, ...]) -> int:
    """Return the row at a place of a random order of ``count`` rows, without an array of them.

    A Feistel cipher permutes the numbers below a power of 4; a number that is too large is permuted again.

    Args:
        place: The place, from 0.
        count: The number of rows.
        key: Integers that choose the order.
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    secret = repr(key).encode()
    while True:
        left, right = place >> half, place & mask
        for number in range(ROUNDS):
            digest = hashlib.blake2b(b"%d,%d" % (number, right), digest_size=8, key=secret[:64]).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        place = left << half | right
        if place < count:
            return place


def _check_weight(name: str, weight: float) -> None:
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"the weight of {shown(name)} is {weight:g}; more than 0 is allowed")
