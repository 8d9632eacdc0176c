"""The metrics of an evaluation: persons are added as they are predicted, and averaged at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gazelle.metrics.persons import Scores, gazefollow_rows, vat_rows
from gazelle.metrics.points import maps, numbers
from gazelle.metrics.ranks import inout_ap
from plm_core import InputError


class Gazefollow:
    """The metrics of GazeFollow over all persons of an evaluation."""

    def __init__(self) -> None:
        self._rows: list[Scores] = []

    def update(
        self, heatmaps: Any, gazex: Sequence[Any], gazey: Sequence[Any], heights: Sequence[int], widths: Sequence[int]
    ) -> None:
        """Add persons; see `gazelle.metrics.gazefollow_rows`, also for the errors. No persons are allowed, too."""
        if len(heatmaps):
            self._rows.append(np.stack(gazefollow_rows(heatmaps, gazex, gazey, heights, widths)))

    def compute(self) -> dict[str, float]:
        """Return ``auc``, ``avg_l2`` and ``min_l2``, each the mean over all persons for whom it is defined.

        Raises:
            InputError: No person has been added.
        """
        return dict(zip(("auc", "avg_l2", "min_l2"), _means(self._rows), strict=True))


class Vat:
    """The metrics of VideoAttentionTarget over all persons of an evaluation."""

    def __init__(self) -> None:
        self._rows: list[Scores] = []
        self._scores: list[Scores] = []
        self._labels: list[Scores] = []

    def update(self, heatmaps: Any, gazex: Any, gazey: Any, labels: Any, scores: Any = None) -> None:
        """Add persons. No persons are allowed, too.

        Args:
            heatmaps: The predicted heatmaps [N, 64, 64].
            gazex: Horizontal positions [N], fractions of the width. Those of targets outside do not matter.
            gazey: Vertical positions [N].
            labels: 1 where the target is inside the frame and 0 elsewhere [N].
            scores: The predicted in/out scores [N]; None for a model without them.

        Raises:
            InputError: See `gazelle.metrics.vat_rows` and `gazelle.metrics.inout_ap`.
        """
        if not len(heatmaps):
            return
        predicted, truth = maps("heatmaps", heatmaps, 3), numbers("labels", labels, 1)
        inside = truth == 1
        for name, value in {"labels": labels, "gazex": gazex, "gazey": gazey, "scores": scores}.items():
            if value is not None and len(value) != len(predicted):
                raise InputError(f"{name} has {len(value)} entries; {len(predicted)} are expected")
        if not np.isin(truth, (0, 1)).all():
            raise InputError("labels are not all 0 or 1")
        judged = None if scores is None else numbers("scores", scores, 1)
        if inside.any():
            x, y = numbers("gazex", gazex, 1), numbers("gazey", gazey, 1)
            self._rows.append(np.stack(vat_rows(predicted[inside], x[inside], y[inside])))
        if judged is not None:
            self._scores.append(judged)
            self._labels.append(truth)

    def compute(self) -> dict[str, float]:
        """Return ``auc`` and ``l2``, the means over persons who look inside, and ``inout_ap`` if there were scores.

        Raises:
            InputError: No person who looks inside has been added.
        """
        means = dict(zip(("auc", "l2"), _means(self._rows), strict=True))
        if self._scores:
            means["inout_ap"] = inout_ap(np.concatenate(self._scores), np.concatenate(self._labels))
        return means


def _means(rows: Sequence[Scores]) -> list[float]:
    """Return the means of rows [M, N] over all N, without those that are NaN."""
    if not rows:
        raise InputError("no person has been added whose gaze can be judged")
    values = np.concatenate(rows, 1)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: list[float] = (np.where(known, values, 0).sum(1) / known.sum(1)).tolist()
    return means
