"""The outcome of one model, and the rows that the outcomes of all models make, best model first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from parc.scoring import ScoreRow
from plm_core.utils.text import natural_key


@dataclass(frozen=True)
class Outcome:
    """The scores of one model on every probe, or the reason why there are none."""

    model: str
    params: int = 0
    scores: dict[str, list[ScoreRow]] = field(default_factory=dict)
    """By method, one row per probe."""
    seconds: float = 0.0
    """Time it took to extract the features, now or when they were put into the cache."""
    cached: bool = False
    """Whether all features came from the cache."""
    error: str = ""
    """The reason why there are no scores."""
    notes: tuple[str, ...] = ()
    """The warnings of the scores, and why the setting ``fast`` changes nothing."""


@dataclass(frozen=True)
class RankedRow:
    """The score and the rank of one model by one method."""

    model: str
    method: str
    score: float | None
    """Mean over the probes; higher is better. None if the model has no score."""
    low: float | None
    high: float | None
    """Ends of the 90 % interval, mean over the probes."""
    rank: int | None
    """Rank among the models that have this score, from 1. Equal scores share a rank."""
    params: int
    extract_seconds: float
    score_seconds: float
    cached: bool
    """Whether the features came from the cache. ``extract_seconds`` is then the time that they took originally."""
    error: str = ""


def ranked_rows(outcomes: Sequence[Outcome], methods: Sequence[str]) -> tuple[RankedRow, ...]:
    """Rank the models by every method.

    Returns:
        Rows by model, then by method. The models are ordered by the first method; those without a score come last.
    """
    ranked = {method: _with_ranks([_row(outcome, method) for outcome in outcomes]) for method in methods}
    first = {row.model: row for row in ranked[methods[0]]}
    order = sorted(first, key=lambda model: (first[model].rank is None, first[model].rank or 0, natural_key(model)))
    return tuple(row for model in order for rows in ranked.values() for row in rows if row.model == model)


def by_model(rows: Iterable[RankedRow]) -> dict[str, dict[str, RankedRow]]:
    """Group rows by model, then by method, in their order."""
    models: dict[str, dict[str, RankedRow]] = {}
    for row in rows:
        models.setdefault(row.model, {})[row.method] = row
    return models


def mean_rank(rows: Iterable[RankedRow]) -> float | None:
    """Return the mean of the ranks of rows that have one, or None."""
    return _mean(row.rank for row in rows)


def _row(outcome: Outcome, method: str) -> RankedRow:
    """Merge a model's rows of one method, one per probe, into one without a rank."""
    runs = outcome.scores.get(method, [])
    error = outcome.error or next((row.error for row in runs if row.error), "")
    return RankedRow(
        model=outcome.model,
        method=method,
        score=None if error else _mean(row.score for row in runs),
        low=None if error else _mean(row.low for row in runs),
        high=None if error else _mean(row.high for row in runs),
        rank=None,
        params=outcome.params,
        extract_seconds=outcome.seconds,
        score_seconds=sum(row.seconds for row in runs),
        cached=outcome.cached,
        error=error,
    )


def _with_ranks(rows: Sequence[RankedRow]) -> list[RankedRow]:
    scores = [row.score for row in rows if row.score is not None]
    return [
        row if row.score is None else replace(row, rank=1 + sum(score > row.score for score in scores)) for row in rows
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
