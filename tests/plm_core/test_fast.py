"""The option ``fast`` of ``plm predict``, ``plm evaluate`` and `trained_model`: packed where that is possible."""

import logging

import pytest
import torch

from plm_core import packing
from plm_core.errors import InputError
from plm_core.packing import check_fast, make_fast, operators
from plm_core.prediction import predict, trained_model
from plm_core.transforms import applied_to

MICRO = "hiera_micro_shapes"
without_operators = pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())


@without_operators
def test_predictions_come_from_packed_layers_and_are_the_same(plm, pictures, all_layers_gain):
    plain = plm("predict", MICRO, pictures / "val")
    assert not all_layers_gain
    fast = plm("predict", MICRO, pictures / "val", "--fast")
    assert fast.code == 0
    assert (
        "fast: 18 of 18 linear layers and 1 of 1 convolutions are packed, 4 of them with the activation after it\n"
        in fast.err
    )
    assert len(all_layers_gain) == 2 * 18  # batches of 8 and of 1
    assert fast.out == plain.out
    assert "fast" not in plain.err


@without_operators
def test_an_accuracy_comes_from_packed_layers(plm, pictures, all_layers_gain):
    plain = plm("evaluate", MICRO, pictures)
    assert not all_layers_gain
    fast = plm("evaluate", MICRO, pictures, "--fast")
    assert "fast: 18 of 18 linear layers and 1 of 1 convolutions are packed" in fast.err
    assert len(all_layers_gain) == 18
    assert fast.out == plain.out


@without_operators
@pytest.mark.parametrize("transforms", [["packed"], ["tome:r=2", "packed"], ["packed", "tome:r=2"], ["tome:r=2"], []])
def test_a_model_is_packed_once_beside_other_transforms(transforms, all_layers_gain, pictures):
    model = trained_model("tome_micro_shapes", transforms, fast=True)
    assert sorted(applied_to(model)) == sorted({"packed", *(name.partition(":")[0] for name in transforms)})
    plain = trained_model("tome_micro_shapes", [name for name in transforms if name != "packed"])
    pairs = zip(predict(model, [pictures]), predict(plain, [pictures]), strict=True)
    for a, b in pairs:
        assert [c.label for c in a.classes] == [c.label for c in b.classes]
        assert [c.probability for c in a.classes] == pytest.approx([c.probability for c in b.classes], abs=1e-5)
    assert packing.report(model).startswith("25 of 25")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_another_device_or_precision_is_refused_before_the_model_is_loaded(command, plm, pictures):
    result = plm(command, "no_such_model", pictures, "--fast", "--dtype", "bf16")
    said = "plm: error: fast is for dtype fp32, and dtype is bf16: leave out one of them\n"
    assert (result.code, result.out, result.err) == (2, "", said)
    with pytest.raises(InputError, match=r"^fast is for the CPU, and device is cuda:1: leave out fast, or choose"):
        trained_model("no_such_model", device="cuda:1", fast=True)
    check_fast(torch.device("cpu"), "fp32")


def test_a_model_without_such_layers_runs_as_it_is(caplog, monkeypatch, plm, pictures):
    assert make_fast(torch.nn.ReLU().eval()) == (
        "fast changes nothing: ReLU has no linear layer or convolution that can be packed"
    )
    monkeypatch.setattr(operators, "missing", lambda *dtype: "this torch was built without oneDNN")
    result = plm("predict", MICRO, pictures / "val", "--fast")
    assert result.code == 0
    assert result.out == plm("predict", MICRO, pictures / "val").out
    assert "linear layers" not in result.err
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == ["fast changes nothing: no layer can be packed in float32: this torch was built without oneDNN"]
