"""What the micro model needs: the head box of the person that is asked about, and a backbone that was tuned.

Scores are those of `gazelle.micro.shapes`, on held-out scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gazelle.micro.shapes import BOXES, evaluate, scores_of, trained

Rows = Sequence[Mapping[str, Any]]


def prompting(model: Any) -> Rows:
    """Measure a model with each kind of head box, in scenes of two people or more, of which each has a wrong box."""
    return [{"head box": boxes, **scores_of(model, boxes, least=2)} for boxes in BOXES]


def backbones(seeds: Sequence[int], models: Mapping[str, Any] | None = None) -> Rows:
    """Measure models that are trained with a frozen backbone and with a tuned one. Each takes a quarter of an hour.

    Args:
        seeds: The seeds of the trainings.
        models: Trained models by "frozen" and "tuned", which stand for the trainings of the first seed.
    """
    rows = []
    for name, frozen in {"frozen": True, "tuned": False}.items():
        for number, seed in enumerate(seeds):
            given = (models or {}).get(name) if number == 0 else None
            model = trained(seed, frozen=frozen) if given is None else given
            rows.append({"backbone": name, "seed": seed, **evaluate(model)})
    return rows


def markdown(rows: Rows) -> str:
    """Return rows with equal keys as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
