"""How good predicted gaze is: the metrics of GazeFollow and of VideoAttentionTarget (VAT), exactly as published.

    persons.py   `gazefollow` and `vat`, the numbers of one person; `gazefollow_rows` and `vat_rows`, those of many
    means.py     `Gazefollow` and `Vat`, which collect the persons of an evaluation and average over them
    ranks.py     the area under the ROC curve and `inout_ap`, the average precision, of scores with ties
    points.py    heatmaps as arrays, their highest cell, and distances

Heatmaps are tensors or arrays, and gaze points are fractions of the picture. Every mean is over persons, not pictures.
"""

from __future__ import annotations

from gazelle.metrics.means import Gazefollow, Vat
from gazelle.metrics.persons import gazefollow, gazefollow_rows, vat, vat_rows
from gazelle.metrics.ranks import inout_ap

__all__ = ["Gazefollow", "Vat", "gazefollow", "gazefollow_rows", "inout_ap", "vat", "vat_rows"]
