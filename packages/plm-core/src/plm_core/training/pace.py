"""The pace of a training: how many samples it takes per second, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 50  # steps over which the rate is measured


class Pace:
    """A clock of the steps of a training.

    Args:
        batch_size: Samples per step.
        clock: A function that returns the time in seconds.
    """

    def __init__(self, batch_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch_size = batch_size
        self.clock = clock
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.begin()

    def begin(self) -> None:
        """Start the clock."""
        self.start = self.mark = self.clock()
        self.steps = 0
        self.other = 0.0
        self.recent.clear()

    def step(self) -> None:
        """Note that a step has ended."""
        if self.steps == 1:  # the first step is slower than the others, so it counts only until there are more
            self.recent.clear()
        now = self.clock()
        self.recent.append(now - self.mark)
        self.mark = now
        self.steps += 1

    def skip(self) -> None:
        """Leave the time since the last step out of the rate, since it was spent on something else."""
        now = self.clock()
        self.other += now - self.mark
        self.mark = now

    def rate(self) -> float | None:
        """Return the samples per second over the last steps, or None before the first."""
        seconds = sum(self.recent)
        return self.batch_size * len(self.recent) / seconds if seconds else None

    def left(self, steps: int) -> float | None:
        """Return the seconds that so many more steps will take, or None before the first step.

        The steps are as fast as the last ones, so that the time follows a machine that becomes faster or slower. What
        happens between steps is rarer, so it takes its share of all the time until now.
        """
        if not self.recent:
            return None
        between = self.other / max(self.steps - 1, 1)
        return steps * (sum(self.recent) / len(self.recent) + between)

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self.clock() - self.start
