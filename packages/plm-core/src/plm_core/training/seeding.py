"""Random streams for samples: a sample is the same whichever process loads it, and whenever."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from plm_core.errors import InputError
from plm_core.training.interruption import leave_signals_to_main_process


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU) with integers, and restore their states at the end."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    a, b, c, d = (int(n) for n in np.random.SeedSequence(list(key)).generate_state(4))
    random.seed(a)
    np.random.seed(b)
    torch.default_generator.manual_seed(c << 32 | d)  # torch.manual_seed would also seed the GPUs, and not be undone
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


class Seeded(Dataset[Any]):
    """A dataset of (index, items): ``aug_repeats`` random versions of one sample, each from its own random stream.

    It holds as many samples as fill whole batches. If some are left over, each epoch leaves out others.

    Args:
        data: The samples.
        seed: Random seed.
        aug_repeats: Versions of each sample.
        batch: Samples in one step of the optimiser, over all processes and accumulation steps.
    """

    def __init__(self, data: Dataset[Any], seed: int, aug_repeats: int, batch: int = 1) -> None:
        self.data = data
        self.seed = seed
        self.aug_repeats = aug_repeats
        self.batch = batch
        self.epoch = 0
        self.in_worker = False
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self.data) // self.batch * self.batch  # type: ignore[arg-type]

    def _sample(self, index: int) -> int:
        """Return the number of a sample in the data."""
        count = len(self.data)  # type: ignore[arg-type]
        if len(self) == count:
            return index
        if self._order[0] != self.epoch:
            self._order = self.epoch, np.random.default_rng((self.seed, self.epoch)).permutation(count)
        return int(self._order[1][index])

    def __getitem__(self, index: int) -> tuple[int, list[Any]]:
        if not self.in_worker and get_worker_info() is not None:
            self.in_worker = True
            leave_signals_to_main_process()
        index = self._sample(index)
        items = []
        for repeat in range(self.aug_repeats):
            with seeded(self.seed, self.epoch * self.aug_repeats + repeat, index):
                items.append(self.data[index])
        return index, items


class Collate:
    """A collate function that keeps the indices of the samples, so that an error can name them."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[int, list[Any]]]) -> dict[str, Any]:
        """Collate the samples of a batch of (index, samples) pairs.

        Raises:
            InputError: A sample has NaN or infinite values.
        """
        indices = [index for index, _ in items]
        for index, samples in items:
            for name, value in _tensors(samples):
                if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    raise InputError(f"batch of samples {indices}: sample {index} has NaN or infinite values in {name}")
        return {"batch": self.collate([sample for _, samples in items for sample in samples]), "indices": indices}


def _tensors(sample: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(sample, Tensor):
        yield name, sample
    elif isinstance(sample, Mapping):
        for key, value in sample.items():
            yield from _tensors(value, f"{name}.{key}".lstrip("."))
    elif isinstance(sample, list | tuple):
        for value in sample:
            yield from _tensors(value, name)
