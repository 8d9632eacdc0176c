"""Progress bars on stderr for long work. Nothing is shown when stderr is not a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")

REFRESH = 0.1
"""Seconds between two drawings of bars that are not drawn by a thread of their own."""

RECENT = 120.0
"""Seconds over which bars measure the speed that the remaining time follows. Two batches must fit into it, also of a
large model on a CPU."""

_shown: list[Progress] = []


def main_process() -> bool:
    """Return whether this process is the only one, or the first of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def interactive() -> bool:
    """Return whether this is the main process and stderr is a terminal, so that somebody may be watching."""
    return main_process() and sys.stderr.isatty()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and show a progress bar with the remaining time.

    Inside `showing` the bar joins the ones that are there.
    """
    if _shown:
        yield from _joined(_shown[-1], items, description, total)
        return
    if not interactive():
        yield from items
        return
    with new_bars() as bars:
        yield from bars.track(items, total, description=description)


def new_bars(*columns: str | ProgressColumn) -> Progress:
    """Return progress bars on stderr that vanish at the end. Their remaining time follows the recent speed.

    Args:
        *columns: Columns of rich; none for description, bar, percentage and remaining time.
    """
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=RECENT)


@contextmanager
def progress_bar(description: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar while the block runs, and yield the function that advances it by an amount."""
    if not interactive():
        yield lambda amount: None
        return
    with new_bars() as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)


@contextmanager
def showing(bars: Progress) -> Iterator[None]:
    """Show bars while the block runs. They stay on the screen as they are at its end."""
    with bars:
        _shown.append(bars)
        try:
            yield
        finally:
            _shown.remove(bars)


def _joined(bars: Progress, items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    task = bars.add_task(description, total=total if total is not None else length_hint(items) or None)
    drawn = time.monotonic()
    try:
        for item in items:
            yield item
            bars.advance(task)
            if time.monotonic() - drawn > REFRESH:
                bars.refresh()
                drawn = time.monotonic()
    finally:
        bars.remove_task(task)
