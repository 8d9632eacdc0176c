"""The most memory that torch holds at once while a model runs."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def memory_of(model: nn.Module, x: Tensor, call: Callable[[], object]) -> int | None:
    """Return the most bytes that torch had allocated at once during a call, including weights and input.

    CUDA counts them itself. For a CPU they are summed from the profiler's record of one call. None on other devices.
    """
    grown = _growth(call, x.device)
    if grown is None:
        return None
    return grown + x.nbytes + sum(t.nbytes for t in itertools.chain(model.parameters(), model.buffers()))


def _growth(call: Callable[[], object], device: torch.device) -> int | None:
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    with tempfile.TemporaryDirectory() as folder:
        with _no_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    steps = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(steps), default=None)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Silence the file descriptor of stderr: the profiler writes there from C++ and has no switch for it."""
    own, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(nowhere)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done all that was queued; a CPU never queues anything."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
