"""The base of all datasets of the world: checked options, indexing, and one random stream per item."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from plm_core.shapes.words import BACKGROUNDS, SPLITS

Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True)
class World(ABC, Generic[Item]):
    """The base of the datasets: checked options, indexing, and one random stream per item."""

    split: str = "train"
    _: KW_ONLY
    size: int = 64
    count: int = 1000
    seed: int = 0
    objects: tuple[int, int] = (1, 3)
    background: str = "clutter"

    stream: ClassVar[int]
    least: ClassVar[int] = 32
    most: ClassVar[int]

    def __post_init__(self) -> None:
        check_choice("split", self.split, SPLITS)
        check_whole("size", self.size, self.least, 4096)
        check_whole("count", self.count, 1, 2**32)
        check_whole("seed", self.seed, 0, 2**64 - 1)
        check_span("objects", self.objects, 1, self.most)
        check_choice("background", self.background, BACKGROUNDS)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        position = operator.index(index)
        if not -self.count <= position < self.count:
            raise IndexError(f"index must be from {-self.count} to {self.count - 1}, not {position}")
        key = (self.stream, SPLITS.index(self.split), position % self.count)
        return self._make(np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(self.seed), spawn_key=key))))

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(self.count))

    @abstractmethod
    def _make(self, rng: np.random.Generator) -> Item:
        """Sample and draw one item from one random stream."""


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Refuse all but a whole number from ``low`` to ``high``."""
    if not (_is_whole(value) and low <= value <= high):
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def check_span(name: str, value: Any, low: int, high: int) -> None:
    """Refuse all but a pair (fewest, most) of whole numbers from ``low`` to ``high``."""
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_whole, value))
    if not (pair and low <= value[0] <= value[1] <= high):
        raise ValueError(f"{name} must be (fewest, most) with {low} <= fewest <= most <= {high}, not {value!r}")
