"""Timing of contenders in one run: interleaved rounds, medians, ratios to the last."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path


def compare(
    title: str, contenders: Mapping[str, Callable[[], object]], rounds: int = 15, warmup: int = 2
) -> dict[str, float]:
    """Run the contenders in turn, ``rounds`` times each, and print median, minimum and ratios to the last.

    The last contender is the peer. Interleaving spreads whatever else the machine does over all of them. The
    paired ratio is the median of those of each round, with their lower and upper quartile.

    Returns:
        The median of each contender in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(warmup + rounds):
        for name, run in contenders.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    *_, peer = contenders
    base = statistics.median(times[peer])
    for name, seen in times.items():
        median = statistics.median(seen)
        low, paired, high = _quartiles([a / b for a, b in zip(seen, times[peer], strict=True)])
        spread = f"(paired rounds {paired:.3f}x, {low:.3f} to {high:.3f})"
        ratio = "" if name == peer else f"  {median / base:.3f}x {spread} of {peer}"
        print(f"{title:<28} {name:<16} median {median * 1e3:9.1f} ms  min {min(seen) * 1e3:9.1f} ms{ratio}", flush=True)
    return {name: statistics.median(seen) for name, seen in times.items()}


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3


def _synchronize() -> None:
    """Wait for a GPU, where one works."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def processor() -> str:
    """Return the model of the processor, whose vendor decides what instructions MKL uses."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def machine(*distributions: str) -> str:
    """One line about where the numbers come from."""
    torch = sys.modules.get("torch")
    device = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else processor()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in distributions)
    return f"{device}, Python {platform.python_version()}, {versions}"
