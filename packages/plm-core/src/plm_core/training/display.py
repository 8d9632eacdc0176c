"""The progress of a training on stderr: a bar on a terminal, and elsewhere a line per epoch.

Import it late, since it imports transformers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

from plm_core.training.history import EVALUATION, passed
from plm_core.training.pace import Pace
from plm_core.training.recipe import Recipe
from plm_core.utils.progress import RECENT, REFRESH, interactive, showing


@contextmanager
def display(recipe: Recipe, max_steps: int | None, console: Console | None = None) -> Iterator[TrainerCallback]:
    """Yield a callback that shows the progress of a training. It belongs after the other callbacks.

    Args:
        recipe: The optimisation.
        max_steps: The number of steps after which the training stops, if that is not at the end of the schedule.
        console: Where to show it; None for stderr.
    """
    # neither the environment nor the kind of terminal should make rich draw bars into a file
    console = console or Console(stderr=True, force_terminal=interactive())
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(recipe, max_steps, console)
        return
    bars = _Bars(console)
    with showing(bars):
        yield _Bar(recipe, max_steps, bars)


class _Progress(TrainerCallback):
    """The numbers of a training as they become known, and two events for those that show them."""

    def __init__(self, recipe: Recipe, max_steps: int | None) -> None:
        self.recipe = recipe
        self.max_steps = max_steps
        self.pace = Pace(recipe.batch_size)
        self.step = self.total = 0
        self.epoch = 0.0
        self.logs: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.due = False  # at the end of an epoch, until its values are known
        self.evaluating = self.over = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.total = min(state.max_steps, self.max_steps or state.max_steps)
        self._read(state)
        self.pace.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.step()
        before = self.epoch
        self._read(state)
        self.over = control.should_training_stop or self.step >= self.total
        self.due = self.over or passed(before, self.epoch)
        self.evaluating = control.should_evaluate
        self.changed(now=self.due)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        self.logs = logs
        self.changed(now=self.due)
        if not self.evaluating:
            self._end_epoch({})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        self.pace.skip()
        self.evaluating = False
        self.scores = {name.removeprefix(EVALUATION): value for name, value in metrics.items()}
        self.changed(now=True)
        self._end_epoch(self.scores)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.skip()

    def changed(self, now: bool) -> None:
        """Show the numbers, which have changed: at once, or if they were not shown a moment ago."""

    def epoch_ended(self, scores: dict[str, float]) -> None:
        """Show that an epoch has ended, with the scores of an evaluation at its end."""

    def numbers(self, scores: dict[str, float]) -> str:
        """Return the values to show in one line."""
        parts = [f"loss {self.logs['loss']:.4g}", f"lr {short(self.logs['learning_rate'])}"] if self.logs else []
        rate = self.pace.rate()
        parts += [f"{rate:,.0f} samples/s" if rate >= 100 else f"{rate:.3g} samples/s"] if rate else []
        return "  ".join([*parts, *(f"{name} {value:.4g}" for name, value in scores.items())])

    def left(self) -> str:
        """Return the time that is left, or at the end the time that the training took."""
        if self.over:
            return f"took {clock(self.pace.elapsed())}"
        seconds = self.pace.left(self.total - self.step)
        return "ETA -:--:--" if seconds is None else f"ETA {clock(seconds)}"

    def _read(self, state: Any) -> None:
        self.step, self.epoch = state.global_step, (state.epoch or 0) * self.recipe.aug_repeats

    def _end_epoch(self, scores: dict[str, float]) -> None:
        if self.due:
            self.epoch_ended(scores)
        self.due = False


class _Lines(_Progress):
    """One line per epoch."""

    def __init__(self, recipe: Recipe, max_steps: int | None, console: Console) -> None:
        super().__init__(recipe, max_steps)
        self.console = console

    def epoch_ended(self, scores: dict[str, float]) -> None:
        """Print the line."""
        line = f"epoch {self.epoch:.4g}/{self.recipe.epochs:.6g}  {self.numbers(scores)}  {self.left()}"
        self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


class _Bar(_Progress):
    """One bar, and a line with the last values below it."""

    def __init__(self, recipe: Recipe, max_steps: int | None, bars: _Bars) -> None:
        super().__init__(recipe, max_steps)
        self.bars = bars
        self.task = bars.add_task("training", total=None, left="")
        self.drawn = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._draw()

    def changed(self, now: bool) -> None:
        """Draw the bar and the line."""
        if now or self.evaluating or time.monotonic() - self.drawn > REFRESH:
            self._draw()

    def _draw(self) -> None:
        current = min(max(math.ceil(self.epoch - 1e-6), 1), self.recipe.epochs)
        doing = ["evaluating"] if self.evaluating else []
        self.bars.note = "  ".join([*doing, self.numbers(self.scores)])
        self.bars.update(
            self.task,
            description=f"epoch {current:.6g}/{self.recipe.epochs:.6g}",
            completed=self.step,
            total=self.total,
            left="" if self.evaluating else self.left(),
            refresh=True,
        )
        self.drawn = time.monotonic()


class _Left(TimeRemainingColumn):
    """The time that is left, which a training knows better than rich."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return super().render(task) if left is None else Text(left, style="progress.remaining")


class _Bars(Progress):
    """Bars and a line of text below them. No thread draws them, since workers are forked while they are shown."""

    def __init__(self, console: Console) -> None:
        self.note = ""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(None), MofNCompleteColumn(), _Left())
        super().__init__(*columns, console=console, auto_refresh=False, expand=True, speed_estimate_period=RECENT)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bars and the line, which is cut at the edge of the terminal."""
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, style="dim", no_wrap=True, overflow="ellipsis")


def short(rate: float) -> str:
    """Write a learning rate: 0.00075 -> ``7.5e-4``, 0.02 -> ``0.02``."""
    if rate >= 0.01 or not rate:
        return f"{rate:.2g}"
    digits, _, exponent = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def clock(seconds: float) -> str:
    """Write a duration: 190 -> ``0:03:10``."""
    return str(timedelta(seconds=round(seconds)))
