"""The stop on the tour, with fewer models and images."""

import re

from parc import tour as stop
from plm_core.tools.tour import Tour


def test_the_stop(monkeypatch):
    monkeypatch.setattr(stop, "MODELS", ("hiera_micro_shapes", "hiera_micro_digits", "random:test_resnet"))
    monkeypatch.setattr(stop, "BUDGET", 60)
    tour = Tour()
    stop.choose_model(tour)
    page = "".join(tour.parts)
    assert page.count("data:image/png;base64,") == 1
    cells = re.findall("<td>(.*?)</td>", page)
    assert len(cells) == 3 * (len(stop.COLUMNS) - 1)  # no problem
    assert cells[:2] == ["1", "hiera_micro_digits.sklearn_digits"]  # it was trained on such digits
    assert tour.facts == {"first of 3": "hiera_micro_digits.sklearn_digits"}


def test_a_model_that_fails_is_shown(monkeypatch):
    monkeypatch.setattr(stop, "MODELS", ("hiera_micro_digits", "hiera_micro_motions"))  # the latter needs clips
    monkeypatch.setattr(stop, "BUDGET", 40)
    tour = Tour()
    stop.choose_model(tour)
    page = "".join(tour.parts)
    assert "<th>problem</th>" in page
    assert page.count("<tr>") == 3
