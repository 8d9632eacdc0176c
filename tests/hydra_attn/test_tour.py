"""The tour stop, with random weights: its figures do not depend on them."""

import torch

import plm_core
from hydra_attn import tour as stop
from plm_core.tools.tour import Tour


def test_the_stop(monkeypatch):
    torch.manual_seed(0)
    model = plm_core.create_model(stop.NAME).eval()
    monkeypatch.setattr(plm_core, "create_model", lambda name, pretrained: model)
    monkeypatch.setattr(stop, "TOKENS", (8, 16))
    monkeypatch.setattr(stop, "ROUNDS", 1)
    tour = Tour()
    stop.stop(tour)
    page = "".join(tour.parts)
    assert page.count("data:image/png;base64,") == 2
    assert list(tour.facts) == ["time of the attention at 16 tokens", "time of the layer at 16 tokens"]
    assert all(text.endswith(" of that with the softmax") for text in tour.facts.values())
