"""The result of a probing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc.probing import report
from parc.probing.outcomes import ProbeRow, by_model
from parc.writing import data_frame, plain_text, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Probing:
    """Models by the cross-validated accuracy of a classifier on their frozen features, the best first."""

    rows: tuple[ProbeRow, ...]
    about: Mapping[str, Any]
    """The dataset, the kind of its items (images or videos), their number, and the settings."""

    @property
    def models(self) -> list[str]:
        """Names of the models, best first. Models that failed come last."""
        return list(by_model(self.rows))

    @property
    def failed(self) -> list[str]:
        """Names of the models that have no accuracy at all."""
        return [model for model in self.models if all(row.accuracy is None for row in self.of(model))]

    def __str__(self) -> str:
        return plain_text(self.table())

    def of(self, model: str) -> list[ProbeRow]:
        """Return the rows of a model: first that of all images in folds, which orders the models."""
        return by_model(self.rows).get(model, [])

    def table(self) -> list[dict[str, Any]]:
        """Return one row per model for people to read: accuracies with their intervals, and cost."""
        return report.table(self.rows)

    def figure(self) -> Figure:
        """Draw the accuracies with their intervals: over the number of images per class if there are few-shot results.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        return report.figure(self.rows, self.about)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: the settings, and a row for each model and accuracy."""
        return {"about": dict(self.about), "rows": [asdict(row) for row in self.rows]}

    def to_pandas(self) -> DataFrame:
        """Return a data frame with a row for each model and accuracy, as in a .csv file.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return data_frame(self.rows)

    def save(self, path: str | Path) -> None:
        """Write the probing to a file, completely or not at all.

        Args:
            path: The ending decides what is written. A .csv or .json file has a row for each model and accuracy, an .md
                file the table, and a .png, .svg or .pdf file the picture.

        Raises:
            InputError: The ending is another one.
            MissingDependency: A picture is to be written, but matplotlib is not installed.
            FileError: The file cannot be written.
        """
        write(self, path)
