"""Ctrl-C and a scheduler's SIGTERM during a training: the step in flight ends before the training does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from plm_core.errors import TrainingInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """The signals that this process has received.

    Attributes:
        received: The number of the first one, or 0.
    """

    def __init__(self) -> None:
        self.received = 0

    def agreed(self, device: torch.device) -> int:
        """Return the number of a signal that any process of the training has received, or 0.

        All processes must call it at the same time, since one that stops alone would leave the others waiting.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_world_size() > 1:
            numbers = torch.tensor(self.received, device=device)
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
            return int(numbers)
        return self.received


@contextmanager
def catch_signals(say: bool) -> Iterator[Signals]:
    """Note SIGINT and SIGTERM while the block runs. A second one has the effect that it has without this.

    Only the main thread can do so. A signal that was ignored before stays ignored.

    Args:
        say: Whether to say on stderr that the first signal was noted.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    process = os.getpid()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a process that loads data was forked, and it has no say in this
            return
        if signals.received:
            restore()
            signal.raise_signal(number)
            return
        signals.received = number
        if say:
            name = signal.Signals(number).name
            with suppress(OSError):  # print is not safe here, since the signal may have interrupted another print
                line = f"\n{name} received: the training stops after this step. A second one stops it at once.\n"
                os.write(2, line.encode())

    for number in before:
        signal.signal(number, note)
    try:
        yield signals
    finally:
        restore()


def interrupted(signum: int, step: int, steps: int, out: Path | None) -> TrainingInterrupted:
    """Return the error that says that a signal stopped a training after so many of its steps, and how to go on."""
    checkpoint = out / f"checkpoint-{step}" if out else None  # it has just been written
    kept = f"can be resumed from {checkpoint}" if checkpoint else "has left nothing, since out is None"
    message = f"the training was interrupted by {signal.Signals(signum).name} after {step} of {steps} steps and {kept}"
    return TrainingInterrupted(message, signum, step, None if checkpoint is None else str(checkpoint))


def leave_signals_to_main_process() -> None:
    """Survive the first SIGINT and SIGTERM in a process that loads data.

    Ctrl-C and schedulers send them to all processes. The main process needs this one until its step has ended, and then
    ends it, if need be with a second SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
