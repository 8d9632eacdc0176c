"""Loading is strict: whatever does not fit is named, and nothing is half-loaded."""

import pytest
import torch
from torch import nn

import plm_core
from plm_core import weights
from plm_core.errors import WeightsError
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"


def damaged(state, changes):
    """Return the tensors of a state dict with changes: another tensor by name, or None to take one out."""
    return {name: tensor for name, tensor in (state | changes).items() if tensor is not None}


DAMAGE = {
    "missing": ({"head.norm.bias": None}, "missing: head.norm.bias"),
    "unexpected": ({"blocks.99.w": torch.zeros(1)}, "unexpected: blocks.99.w"),
    "wrong shape": (
        {"head.fc.bias": torch.zeros(9)},
        "wrong shape: head.fc.bias is [9] in the source and [10] in the model",
    ),
    "transposed": ({"head.fc.weight": torch.zeros(96, 10)}, "head.fc.weight is [96, 10] in the source"),
    "scalar": ({"pos_embed": torch.tensor(1.0)}, "pos_embed is [] in the source"),
    "empty": ({"pos_embed": torch.zeros(0)}, "pos_embed is [0] in the source"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("where", ["dict", "file"])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(damage, where, state, fresh, source, one_line):
    changes, line = DAMAGE[damage]
    before, broken = weights.fingerprint(fresh), damaged(state, changes)
    with one_line(WeightsMismatch, "Hiera", "layout 'native'", line):
        weights.load(fresh, broken if where == "dict" else source(broken))
    assert weights.fingerprint(fresh) == before


def test_the_report_lists_what_the_line_abbreviates(state, fresh, one_line):
    keys = sorted(state)
    broken = {key: state[key] for key in keys[20:]}
    broken |= {key: torch.zeros(1, 2, 3) for key in keys[40:]} | {f"x{i}": torch.zeros(1) for i in range(30)}
    with one_line(WeightsMismatch, "and 16 more; unexpected: x0, x1, x2, x3 and 26 more") as caught:
        weights.load(fresh, broken)
    report = caught.value.report
    assert len(str(caught.value)) < 1000
    assert not report.ok
    assert sorted(report.missing) == keys[:20]
    assert report.unexpected == [f"x{i}" for i in range(30)]
    assert report.mismatched == {key: ((1, 2, 3), tuple(state[key].shape)) for key in keys[40:]}
    assert report.num_fitting == 20


def test_no_tensor_is_taken_in_place_of_another(micro, state, fresh, one_line):
    # "norm1" is not transformers' name; the rule that takes everything else of a block would put it over the real one
    exported = weights.export(micro, "transformers")
    key = next(key for key in exported if "layernorm_before.weight" in key)
    impostor = key.replace("layernorm_before", "norm1")
    for broken in (exported | {impostor: exported[key] + 1}, {impostor: exported[key] + 1} | exported):
        before = weights.fingerprint(fresh)
        with one_line(WeightsMismatch, "unexpected: "):
            weights.load(fresh, broken)
        assert weights.fingerprint(fresh) == before


HOSTILE = {  # tests/drills/test_tensors.py has more, in every layout
    "meta": (lambda w: w.to("meta"), "1.weight is on the meta device and has no values"),
    "sparse": (lambda w: w.to_sparse(), "the dict has 1.weight, which is sparse"),
    "other class": (lambda w: w.as_subclass(type("Spread", (torch.Tensor,), {})), "1.weight, which is a Spread"),
    "integer": (lambda w: w.long(), "1.weight is torch.int64 in the source and torch.float32 in the model"),
    "complex": (lambda w: w.to(torch.complex64), "1.weight is torch.complex64 in the source"),
    "too large": (lambda w: w.double().fill_(-1e300), "1.weight has -1e+300 in the source, which torch.float32 in"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_tensor_that_a_model_cannot_hold_is_named_and_nothing_is_loaded(kind, one_line):
    change, line = HOSTILE[kind]
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    before, state = weights.fingerprint(model), {key: v + 1 for key, v in model.state_dict().items()}
    with one_line(WeightsError, line):
        weights.load(model, state | {"1.weight": change(state["1.weight"])})
    assert weights.fingerprint(model) == before


@pytest.mark.parametrize(
    ("model", "value", "fits"),
    [
        (torch.float16, torch.tensor(65_504.0), True),
        (torch.float16, torch.tensor(65_504.0 + 8), True),  # rounds to the largest
        (torch.float16, torch.tensor(70_000.0, dtype=torch.bfloat16), False),
        (torch.float16, torch.tensor(float("-inf")), True),
        (torch.float32, torch.tensor(float("nan"), dtype=torch.float64), True),
        (torch.bfloat16, torch.tensor(3e38), True),
        (torch.int32, torch.tensor(2**31), False),
        (torch.int64, torch.tensor(-1, dtype=torch.int8), True),
        (torch.uint8, torch.tensor(-1), False),
        (torch.int64, torch.tensor(True), False),
    ],
)
def test_a_cast_loses_no_value(model, value, fits):
    class Number(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("number", torch.zeros((), dtype=model))

    number = Number()
    if fits:
        weights.load(number, {"number": value})
        torch.testing.assert_close(number.number, value.to(model), rtol=0, atol=0, equal_nan=True)
    else:
        with pytest.raises(WeightsError, match=r"number (has|is) .* in the model"):
            weights.load(number, {"number": value})
        assert number.number == 0


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda m, p: weights.load(None, {}), "model is None; an nn.Module is expected"),
        (lambda m, p: weights.load({"a": torch.ones(1)}, p), "model is a dict; an nn.Module is expected"),
        (lambda m, p: weights.load(m, 3), "source is an int; a path, a repository or a dict of tensors is expected"),
        (lambda m, p: weights.load(m, m), "source is a Linear;"),
        (lambda m, p: weights.load(m, m.state_dict(), layout=1), "layout is an int; the name of a weight layout"),
        (lambda m, p: weights.export("hiera_micro_digits"), "model is a str; an nn.Module is expected"),
        (lambda m, p: weights.export(m, b"native"), "layout is a bytes;"),
        (lambda m, p: weights.export(m, ""), "no weight layout ''"),
        (lambda m, p: weights.to_native([], {}), "model is a list;"),
        (lambda m, p: weights.fingerprint(b""), "model is a bytes;"),
        (lambda m, p: weights.save(m, None), "path is None; a path is expected"),
        (lambda m, p: weights.save(p, m), "path is a Linear; a path is expected"),
        (lambda m, p: weights.write(m, p), "state is a Linear; a dict of tensors is expected"),
        (lambda m, p: weights.write({}, 1), "path is an int; a path is expected"),
        (lambda m, p: weights.write({}, p, metadata={"a": 1}), "metadata has ('a', 1); text by names is expected"),
        (lambda m, p: weights.write({}, p, metadata="a"), "metadata is a str; a dict of text is expected"),
        (lambda m, p: weights.save_pretrained(None, p), "model is None"),
        (lambda m, p: weights.save_pretrained(m, None), "folder is None; a path is expected"),
        (lambda m, p: weights.save_pretrained(m, p, 1), "license is an int; an SPDX identifier is expected"),
        (lambda m, p: weights.save_pretrained(m, p, "mit", labels="ab"), "labels is a str; a list of names"),
        (lambda m, p: weights.save_pretrained(m, p, "mit", about={"a": m}), "about cannot be written as JSON"),
    ],
)
def test_arguments_of_other_types_are_named_at_the_door(call, line, tmp_path, one_line):
    with one_line(plm_core.InputError, line):
        call(nn.Linear(2, 2), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


class Sized(nn.Module):
    """A model with a table for its input size."""

    def __init__(self, size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(3))

    def resample(self, key, tensor):
        return tensor.repeat_interleave(2) if key == "table" else tensor


def test_a_model_may_resample_tables_of_another_size(caplog):
    model, state = Sized(4), {"table": torch.tensor([1.0, 2.0]), "bias": torch.ones(3)}
    assert weights.load(model, state).ok
    assert model.table.tolist() == [1, 1, 2, 2]
    assert [r.message for r in caplog.records] == [
        "resampled for another input size, which costs accuracy until finetuned: table [2] to [4]"
    ]
    assert state["table"].tolist() == [1, 2]
    weights.load(Sized(2), state)  # nothing to resample, nothing to say
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "state",
    [
        {"table": torch.ones(3), "bias": torch.ones(3)},  # 6 after resampling, not 4
        {"table": torch.ones(2), "bias": torch.ones(4)},
        {"table": torch.ones(2)},
        {"table": torch.ones(2), "bias": torch.ones(3), "more": torch.ones(1)},
    ],
)
def test_resampling_makes_up_for_nothing_else(state, caplog, one_line):
    model = Sized(4)
    with one_line(WeightsMismatch, "table is"):  # reported as it is in the source
        weights.load(model, state)
    assert not model.table.any()
    assert caplog.records == []
