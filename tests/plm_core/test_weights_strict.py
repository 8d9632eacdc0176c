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


def test_integers_are_no_weights(micro):
    state = {key: value.to(torch.int64) for key, value in micro.state_dict().items()}
    with pytest.raises(WeightsError, match=r"is torch.int64 in the source and torch.float32 in the model"):
        weights.load(plm_core.create_model(MICRO), state)


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
