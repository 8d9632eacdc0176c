"""Progress bars of a ranking on stderr: models, and images of the current one. Silent where nobody may be watching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plm_core.utils.progress import interactive


class Bars:
    """Counts what is done. Without ``progress`` it shows nothing."""

    def __init__(self, models: int, images: int, progress: Any = None) -> None:
        self.images = images
        self.progress = progress
        self.done = 0
        if progress is not None:
            # in images, so that the time left moves within a model too
            self.whole = progress.add_task("models", total=models * images, note=f"0 of {models}")
            self.current = progress.add_task("", total=images, note="")
        self.models = models

    def begin(self, model: str) -> None:
        """A model begins."""
        if self.progress is not None:
            self.progress.reset(self.current, description=model, total=self.images)

    def advance(self, images: int) -> None:
        """Some images of it are done."""
        if self.progress is not None:
            self.progress.advance(self.current, images)
            self.progress.advance(self.whole, images)

    def end(self) -> None:
        """It is done, or failed on the way."""
        self.done += 1
        if self.progress is not None:
            note = f"{self.done} of {self.models}"
            self.progress.update(self.whole, completed=self.done * self.images, note=note)


@contextmanager
def bars(models: int, images: int) -> Iterator[Bars]:
    """Show bars for ``models`` models with ``images`` images each while the block runs."""
    if not interactive():
        yield Bars(models, images)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(models, images, progress)
