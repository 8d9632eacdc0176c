"""Progress bars on stderr: one for all models, one for the images of the current model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plm_core.utils.progress import interactive, new_bars


class ProgressBars:
    """A counter of models and images. It shows nothing if ``progress`` is None."""

    def __init__(self, models: int, images: int, progress: Any = None) -> None:
        self.models = models
        self.images = images
        self.progress = progress
        self.done = 0
        if progress is not None:
            # counts images, so that the time left changes within a model too
            self.all_models = progress.add_task("models", total=models * images, note=f"0 of {models}")
            self.current = progress.add_task("", total=images, note="")

    def begin(self, model: str) -> None:
        """Show that a model begins."""
        if self.progress is not None:
            self.progress.reset(self.current, description=model, total=self.images)

    def advance(self, images: int) -> None:
        """Show that so many more images of the current model are done."""
        if self.progress is not None:
            self.progress.advance(self.current, images)
            self.progress.advance(self.all_models, images)

    def end(self) -> None:
        """Show that the current model is done, or has failed."""
        self.done += 1
        if self.progress is not None:
            note = f"{self.done} of {self.models}"
            self.progress.update(self.all_models, completed=self.done * self.images, note=note)


@contextmanager
def show_bars(models: int, images: int) -> Iterator[ProgressBars]:
    """Show the bars while the block runs, or nothing if stderr is not a terminal.

    Args:
        models: Number of models.
        images: Number of images per model.
    """
    if not interactive():
        yield ProgressBars(models, images)
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with new_bars(*columns) as progress:
        yield ProgressBars(models, images, progress)
