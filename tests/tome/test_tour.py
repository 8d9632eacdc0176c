"""The tour stop, with random weights: its tables do not depend on them."""

import re

import torch

import plm_core
from plm_core.tools.tour import Tour
from tome import tour as stop


def test_the_stop(monkeypatch):
    torch.manual_seed(0)
    model = plm_core.create_model(stop.NAME).eval()
    monkeypatch.setattr(plm_core, "create_model", lambda name, pretrained: model)
    monkeypatch.setattr(stop, "HELD_OUT", 8)
    monkeypatch.setattr(stop, "RUNS", 1)
    tour = Tour()
    stop.merging(tour)
    page = "".join(tour.parts)
    assert page.count("data:image/png;base64,") == 1
    cells = re.findall("<td>(.*?)</td>", page)
    rows = [cells[i : i + 5] for i in range(0, len(cells), 5)]
    assert [row[:2] for row in rows] == [["0", "145"], ["8", "97"], ["16", "49"], ["24", "13"]]
    assert rows[0][3] == "100.0 %"
    assert f"<p>With r={stop.R[-1]} an image takes " in page
    assert stop._comment(2.0, 1.0).startswith("With r=24 an image takes 2.00 times less time.")
    assert stop._comment(1.0, 1.0).startswith("With r=24 an image takes longer, not shorter: ")
    assert tour.facts["r=24, tokens left"] == "13 of 145"
