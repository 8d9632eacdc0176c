"""The sweep over the places where models can be cut, and its plot."""

import itertools

import pytest
import torch
from PIL import Image

import zipit
from plm_core import InputError
from zipit import sweeping
from zipit.evaluation import flops
from zipit.parts import Merged


def test_a_sweep_is_the_merges_and_their_costs(resnets, images):
    models = resnets()
    seen = []

    def mean_of(merged):
        output = merged(images)
        return float((output if torch.is_tensor(output) else output[1]).detach().mean())

    def evaluate(merged):
        seen.append(merged)
        return {"mean": mean_of(merged)}

    rows = zipit.sweep(models, iter(images.split(8)), evaluate, method="permute", reset_norm=False)
    assert [row["until"] for row in rows] == [*zipit.cuts(models[0], images[:2]), None]
    for row, merged in zip(rows, seen, strict=True):
        assert isinstance(merged, Merged) == (row["until"] is not None)
        again = zipit.permute(models, images.split(8), until=row["until"], reset_norm=False)
        assert row["mean"] == mean_of(again)
    costs = [row["flops"] for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0.5
    own = [flops(model, images) for model in models]
    row = next(row for row in rows if row["until"] == "layer3.0.conv1")
    merged = seen[rows.index(row)]
    parts = [flops(merged.trunk, images), *(flops(head, merged.trunk(images)) for head in merged.heads)]
    assert row["flops"] == sum(parts) / sum(own)
    assert parts[0] + parts[1] == own[0]


def test_a_sweep_of_some_places_with_options(resnets, images):
    models = resnets()
    rows = zipit.sweep(models, [images], lambda merged: merged(images).detach().sum(), cuts=[None], a=1.0, b=1.0)
    expected = zipit.merge(models, [images], a=1.0, b=1.0)(images).detach().sum()
    assert rows == [{"score": float(expected), "until": None, "flops": 0.5}]


def test_models_are_run_on_the_data_once_for_several_merges(resnets, images, monkeypatch):
    models = resnets()
    calls = []
    models[1].register_forward_hook(lambda *args: calls.append(1))
    cuts = ["layer2.0.conv1", "layer3.0.conv1", None]
    seen = zipit.Observed(models, [images])
    seen.observe(cuts)
    observed = len(calls)
    for method, until in itertools.product(("zipit", "permute"), cuts):
        merged = seen.merge(method, until, a=1.0, b=0.5)(images)
        expected = zipit.merge(resnets(), [images], method, until, a=1.0, b=0.5)(images)
        torch.testing.assert_close(merged, expected, rtol=0, atol=0)
    assert len(calls) == observed == 1


def test_a_sweep_refuses_before_it_merges(resnets, images):
    models, never = resnets(), pytest.fail
    for cuts, says in ((["layer2.0.conv1", "layer2.0.conv2"], "residual branch"), ("linear", r"\['linear', None\]")):
        with pytest.raises(InputError, match=says):
            zipit.sweep(models, [images], never, cuts=cuts)
    with pytest.raises(InputError, match="two modules or more"):
        zipit.sweep(models[0], [images], never)
    with pytest.raises(InputError, match="no data"):
        zipit.sweep(models, [], never)


def test_what_is_no_score_is_refused(resnets, images):
    with pytest.raises(InputError, match="evaluate returned None; a number, or numbers by their names, are expected"):
        zipit.sweep(resnets(), [images], lambda merged: None, cuts=[None])


def test_a_plot_shows_means_and_deviations(tmp_path):
    rows = [{"until": until, "flops": share, "score": value} for until, share, value in
            ((None, 0.5, 60), ("b", 0.7, 80), (None, 0.5, 64), ("b", 0.7, 80))]  # fmt: skip
    figure = sweeping.plot({"zipit": rows}, {"ensemble": 90})
    (axes,) = figure.axes
    (container,) = axes.containers
    assert container.lines[0].get_xydata().tolist() == [[50, 62], [70, 80]]
    (bars,) = container.lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([62 - 8**0.5, 62 + 8**0.5])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ensemble", "zipit"]
    figure.savefig(tmp_path / "sweep.png")
    assert Image.open(tmp_path / "sweep.png").width > 300
