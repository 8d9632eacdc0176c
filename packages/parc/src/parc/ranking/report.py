"""A ranking as a table, as files, and as a picture."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plm_core.errors import InputError, MissingDependency
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.text import millions

if TYPE_CHECKING:
    from parc.ranking.run import RankedRow, Ranking

PICTURES = (".png", ".svg", ".pdf")
TEXTS = (".csv", ".json", ".md")


def table(ranking: Ranking) -> list[dict[str, Any]]:
    """One row per model for people: scores with their intervals, mean rank and cost."""
    return [_line(ranking, model) for model in ranking.models]


def _line(ranking: Ranking, model: str) -> dict[str, Any]:
    rows = ranking.of(model)
    first = rows[ranking.methods[0]]
    mean_rank = ranking.mean_rank(model)
    return {
        "rank": first.rank,
        "model": model,
        **{method: _score(rows[method]) for method in ranking.methods},
        "mean rank": None if mean_rank is None else f"{mean_rank:.3g}",
        "size": millions(first.params) if first.params else None,
        "extract, s": _seconds(first.extract_seconds) + (" (cached)" if first.cached else ""),
        "score, s": _seconds(sum(row.score_seconds for row in rows.values())),
        "problem": _problem(rows),
    }


def _score(row: RankedRow) -> str | None:
    if row.score is None:
        return None
    if row.low is None or row.high is None:
        return f"{row.score:.4g}"
    return f"{row.score:.4g} [{row.low:.4g}, {row.high:.4g}]"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds else ""


def _problem(rows: dict[str, RankedRow]) -> str:
    """Why scores are missing; said once when it is the same for all."""
    why = {method: row.error for method, row in rows.items() if row.error}
    if len(why) == len(rows) and len(set(why.values())) == 1:
        return next(iter(why.values()))
    return "; ".join(error if error.startswith(method) else f"{method}: {error}" for method, error in why.items())


def as_dict(ranking: Ranking) -> dict[str, Any]:
    """Plain data: what was asked, and a row for each model and method."""
    return {
        "about": dict(ranking.about),
        "methods": list(ranking.methods),
        "rows": [asdict(row) for row in ranking.rows],
    }


def save(ranking: Ranking, path: str | Path) -> None:
    """Write a ranking as the ending of ``path`` says, whole or not at all.

    Args:
        ranking: The ranking.
        path: .csv and .json have a row for each model and method; .md is the table; .png, .svg and .pdf the picture.

    Raises:
        InputError: Another ending.
        MissingDependency: A picture is asked for and matplotlib is not installed.
        FileError: The file cannot be written.
    """
    check_path(path)
    ending = Path(path).suffix.lower()
    if ending in PICTURES:
        with atomic_path(path) as part:
            figure(ranking).savefig(part, format=ending[1:], dpi=150)
        return
    write_text(path, {".csv": _csv, ".json": _json, ".md": _markdown}[ending](ranking))


def check_path(path: str | Path) -> None:
    """Raise what `save` would raise for the ending of ``path``."""
    ending = Path(path).suffix.lower()
    if ending not in (*TEXTS, *PICTURES):
        raise InputError(f"file {str(path)!r} has ending {ending!r}; {', '.join((*TEXTS, *PICTURES))} are allowed")
    if ending in PICTURES and importlib.util.find_spec("matplotlib") is None:
        raise MissingDependency("a picture needs matplotlib: install parc[plot]")


def _csv(ranking: Ranking) -> str:
    rows = [asdict(row) for row in ranking.rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _json(ranking: Ranking) -> str:
    return json.dumps(as_dict(ranking), indent=2, default=str) + "\n"


def _markdown(ranking: Ranking) -> str:
    rows = table(ranking)
    lines = [_cells(list(rows[0])), _cells(["---"] * len(rows[0]))] if rows else []
    return "\n".join([*lines, *(_cells(list(row.values())) for row in rows), ""])


def _cells(values: Sequence[Any]) -> str:
    cells = ["" if value is None else str(value).replace("|", "\\|").replace("\n", " ") for value in values]
    return f"| {' | '.join(cells)} |"


def figure(ranking: Ranking) -> Any:
    """A picture: for each method the scores with their intervals, best model on top; beside them the models' sizes.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    ranked = [model for model in ranking.models if any(row.score is not None for row in ranking.of(model).values())]
    places = range(len(ranked))
    sizes = [ranking.of(model)[ranking.methods[0]].params / 1e6 for model in ranked]
    panels = len(ranking.methods) + 1
    drawn = Figure(figsize=(3 + 2.6 * panels, 1.6 + 0.3 * max(4, len(ranked))), layout="constrained")
    axes = drawn.subplots(1, panels, sharey=True, squeeze=False)[0]
    for method, axis in zip(ranking.methods, axes, strict=False):
        _dots(axis, method, [ranking.of(model)[method] for model in ranked])
    cost = axes[-1]
    cost.barh(places, sizes, color="0.75", height=0.6)
    cost.set_title("parameters, millions", fontsize=10)
    if sizes and min(sizes) > 0 and max(sizes) > 30 * min(sizes):
        cost.set_xscale("log")
    axes[0].set_yticks(places, ranked, fontsize=8)
    axes[0].invert_yaxis()
    for axis in axes:
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    about = ranking.about
    drawn.suptitle(f"{about['dataset']}: {about['images']} images, {about['classes']} classes", fontsize=10)
    return drawn


def _dots(axis: Any, method: str, rows: Sequence[RankedRow]) -> None:
    axis.set_title(method, fontsize=10)
    axis.set_xlabel("higher is better", fontsize=8)
    for place, row in enumerate(rows):
        if row.score is None:
            continue
        if row.low is not None and row.high is not None and math.isfinite(row.low) and math.isfinite(row.high):
            axis.plot([row.low, row.high], [place, place], color="0.6", linewidth=2, solid_capstyle="butt")
        axis.plot(row.score, place, "o", color="C0" if row.rank != 1 else "C3", markersize=5)
