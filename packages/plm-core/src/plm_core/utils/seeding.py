"""Random weights that are the same at every call, also when several threads make models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

GENERATORS = threading.RLock()
"""Held by who seeds the random generators of the process and draws from them: who makes a model, or trains one."""


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU inside a ``with`` block, and restore its state at the end.

    The generator belongs to the whole process, so one thread at a time is in such a block or trains. A thread that
    draws random numbers elsewhere meanwhile still shares the generator.
    """
    import torch

    with GENERATORS, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, and not be undone
        yield
