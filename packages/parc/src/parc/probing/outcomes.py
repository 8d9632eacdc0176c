"""The accuracies of one model, and the rows that all models make, best model first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from parc.probing.accuracy import Accuracy
from plm_core.utils.text import natural_key

FOLDS, VAL = "folds", "val"
Kind = tuple[str, int | None]
"""The images that are judged, `FOLDS` or `VAL`, and the images per class to learn from, None for all."""


@dataclass(frozen=True)
class Outcome:
    """The accuracies of one model, or the reason why there are none."""

    model: str
    params: int = 0
    accuracies: dict[Kind, Accuracy] = field(default_factory=dict)
    extract_seconds: float = 0.0
    fit_seconds: float = 0.0
    cached: bool = False
    error: str = ""
    notes: tuple[str, ...] = ()
    """Why the setting ``fast`` changes nothing."""


@dataclass(frozen=True)
class ProbeRow:
    """One accuracy of one model."""

    model: str
    judged: str
    """``folds``: all images, each by a classifier that was fitted without its fold. ``val``: the images of the split
    to judge by, after a fit on all images to learn from."""
    shots: int | None
    """Number of images per class to learn from; None for all."""
    accuracy: float | None
    """In percent. None if the model failed."""
    low: float | None
    high: float | None
    """Ends of the 90 % interval, see `parc.probing.accuracy`."""
    images: int
    """Number of images that were judged."""
    rank: int | None
    """Rank among the accuracies of the same kind, from 1. Equal accuracies share a rank."""
    params: int
    extract_seconds: float
    fit_seconds: float
    """Time of all fits of the model."""
    cached: bool
    """Whether the features came from the cache. ``extract_seconds`` is then the time that they took originally."""
    error: str = ""


def probe_rows(outcomes: Sequence[Outcome], kinds: Sequence[Kind]) -> tuple[ProbeRow, ...]:
    """Return a row for each model and kind, in this order.

    Models are ordered by the accuracy of the first kind. Those that failed come last.
    """
    ranked = [_with_ranks([_row(outcome, kind) for outcome in outcomes]) for kind in kinds]
    first = {row.model: row for row in ranked[0]}
    order = sorted(first, key=lambda model: (first[model].rank is None, first[model].rank or 0, natural_key(model)))
    return tuple(row for model in order for rows in ranked for row in rows if row.model == model)


def by_model(rows: Iterable[ProbeRow]) -> dict[str, list[ProbeRow]]:
    """Group rows by model, in their order."""
    models: dict[str, list[ProbeRow]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    return models


def _row(outcome: Outcome, kind: Kind) -> ProbeRow:
    found = outcome.accuracies.get(kind)
    return ProbeRow(
        model=outcome.model,
        judged=kind[0],
        shots=kind[1],
        accuracy=found.value if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        images=found.images if found else 0,
        rank=None,
        params=outcome.params,
        extract_seconds=outcome.extract_seconds,
        fit_seconds=outcome.fit_seconds,
        cached=outcome.cached,
        error=outcome.error,
    )


def _with_ranks(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    known = [row.accuracy for row in rows if row.accuracy is not None]
    return [
        row if row.accuracy is None else replace(row, rank=1 + sum(other > row.accuracy for other in known))
        for row in rows
    ]
