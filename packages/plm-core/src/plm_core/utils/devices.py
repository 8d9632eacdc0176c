"""The device and the precision of a model, from their names on a command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from plm_core.errors import InputError
from plm_core.utils.text import first_line

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device that torch knows by a name. ``auto`` is the accelerator if there is one, else the CPU.

    Raises:
        InputError: There is no such device, or it cannot compute.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        why = first_line(e).partition(". ")[0]
        raise InputError(f"device {name!r} cannot be used: {why}") from e
    if device.type == "meta":
        raise InputError("device 'meta' cannot be used: nothing is computed there")
    return device


def default_workers(device: torch.device) -> int:
    """Return how many processes load the data if nobody says it: none for the CPU, whose cores are busy anyway."""
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads of the CPU inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Return the context in which to compute: autocast for ``bf16`` and ``fp16``, no change for ``fp32``.

    Raises:
        InputError: ``dtype`` is none of these.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not allowed: {', '.join(DTYPES)} are")
    kind = DTYPES[dtype]
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Return the context in which autocast is off for a type of device, such as "cpu"."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):  # entering autocast takes its time
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
