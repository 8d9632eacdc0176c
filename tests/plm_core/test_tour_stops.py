"""The stop of the tour that packs linear layers, with a smaller model. No test compares two times."""

from dataclasses import replace

import pytest

from plm_core import tour as stops
from plm_core.packing import operators, tuning
from plm_core.tools.tour import Tour

NOTHING = "This machine gains nothing: "


@pytest.fixture
def stop(monkeypatch):
    """Return a function that runs the stop as if these were the times, and returns its output."""

    def run(speedup, **times):
        timed = stops.compare
        monkeypatch.setattr(stops, "PACKED_MODEL", "test_vit")
        monkeypatch.setattr(stops, "RUNS", 1)
        monkeypatch.setattr(
            stops, "compare", lambda *given: [replace(one, speedup=speedup, **times) for one in timed(*given)]
        )
        tour = Tour()
        stops.packed(tour)
        return "".join(tour.parts), tour.facts

    return run


@pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
@pytest.mark.parametrize(("speedup", "gains"), [(1.9, True), (1.01, False)])
def test_packed_layers_and_what_they_gain(speedup, gains, stop, all_layers_gain):
    page, facts = stop(speedup)
    packed = "25 of 25 linear layers and 1 of 1 convolutions are packed, 6 of them with the activation after it"
    assert f"The transform reports: {packed}." in page
    assert ("Packed, the model is 1.90 times as fast on this machine" in page) == gains
    assert (NOTHING in page) != gains
    assert facts["packed layers"] == "25 of 25"
    speed, _, difference = facts["speed when packed"].partition(" x, answers differ by ")
    assert float(speed) == speedup
    assert 0 <= float(difference) < 1e-5
    assert all_layers_gain


@pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
def test_on_a_busy_machine_no_gain_is_claimed(stop, all_layers_gain):
    page, _ = stop(1.9, milliseconds=2.0, between=(1.5, 3.0))
    assert "as it is took 1.5 to 3 ms, so something else keeps this machine busy, and what packing gains cannot" in page
    assert "times as fast" not in page


def test_a_machine_that_gains_nothing_says_so(stop, monkeypatch):
    monkeypatch.setattr(tuning, "_faster", {})
    monkeypatch.setattr(tuning, "_share", lambda packed, plain, x: 1.1)
    page, facts = stop(1.2)  # noise
    assert "0 of 25 linear layers and 0 of 1 convolutions are packed; left as they are: 26 faster as they are" in page
    assert page.endswith(f"<p>{NOTHING}MKL is as fast as oneDNN on it, so every layer stays as it was.</p>")
    assert facts["packed layers"] == "0 of 25"
    monkeypatch.setattr(operators, "missing", lambda *dtype: "this torch was built without oneDNN")
    page, facts = stop(1.2)
    assert page.endswith(
        "fast changes nothing: no layer can be packed in float32: this torch was built without oneDNN.</p>"
    )
    assert not facts
