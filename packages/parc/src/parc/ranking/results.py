"""The result of a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc.ranking import report
from parc.ranking.outcomes import RankedRow, by_model, mean_rank
from parc.writing import data_frame, plain_text, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Ranking:
    """Models by how well they suit a dataset, the best by the first method first."""

    rows: tuple[RankedRow, ...]
    methods: tuple[str, ...]
    about: Mapping[str, Any]
    """The dataset, the kind of its items (images or videos), the number of them in the probe, and the settings."""

    @property
    def models(self) -> list[str]:
        """Names of the models, best first. Models without a score by the first method come last."""
        return list(by_model(self.rows))

    @property
    def failed(self) -> list[str]:
        """Names of the models that have no score at all."""
        return [model for model in self.models if all(row.score is None for row in self.of(model).values())]

    @property
    def failed_methods(self) -> list[str]:
        """Names of the methods by which no model has a score."""
        scored = {row.method for row in self.rows if row.score is not None}
        return [method for method in self.methods if method not in scored]

    def __str__(self) -> str:
        return plain_text(self.table())

    def of(self, model: str) -> dict[str, RankedRow]:
        """Return the rows of a model by method."""
        return by_model(self.rows).get(model, {})

    def mean_rank(self, model: str) -> float | None:
        """Return the mean of a model's ranks over the methods that could score it."""
        return mean_rank(self.of(model).values())

    def table(self) -> list[dict[str, Any]]:
        """Return one row per model for people to read: scores with their intervals, mean rank and cost."""
        return report.table(self.rows)

    def figure(self) -> Figure:
        """Draw a picture: for each method the scores with their intervals, and the sizes of the models.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        about = self.about
        return report.figure(
            self.rows, f"{about['dataset']}: {about['images']} {about['kind']}, {about['classes']} classes"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: the settings, the methods, and a row for each model and method."""
        return {
            "about": dict(self.about),
            "methods": list(self.methods),
            "rows": [asdict(row) for row in self.rows],
        }

    def to_pandas(self) -> DataFrame:
        """Return a data frame with a row for each model and method, as in a .csv file.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return data_frame(self.rows)

    def save(self, path: str | Path) -> None:
        """Write the ranking to a file, completely or not at all.

        Args:
            path: The ending decides what is written. A .csv or .json file has a row for each model and method, an .md
                file the table, and a .png, .svg or .pdf file the picture.

        Raises:
            InputError: The ending is another one.
            MissingDependency: A picture is to be written, but matplotlib is not installed.
            FileError: The file cannot be written.
        """
        write(self, path)
