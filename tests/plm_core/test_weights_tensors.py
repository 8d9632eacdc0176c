"""Dtypes, models on the meta device, odd tensors and fingerprints: what is stored comes back bit for bit."""

import copy
import hashlib
import struct

import pytest
import torch
from torch import nn

import plm_core
from plm_core import weights
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"
BODY = "blocks.1.attn.qkv.weight"


# --- dtypes and the meta device ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept_in_files_and_on_meta(dtype, micro, state, fresh, tmp_path):
    path = tmp_path / "half.safetensors"
    half = copy.deepcopy(micro).to(dtype)
    weights.save(half, path, "transformers")
    assert {tensor.dtype for tensor in weights.read(path).values()} == {dtype}

    with torch.device("meta"):
        lazy = plm_core.create_model(MICRO)
    weights.load(lazy, path)
    assert {tensor.dtype for tensor in lazy.state_dict().values()} == {dtype}
    assert weights.fingerprint(lazy) == weights.fingerprint(half)

    weights.load(fresh, path)
    assert {tensor.dtype for tensor in fresh.state_dict().values()} == {torch.float32}
    rounded = {key: value.to(dtype).float() for key, value in state.items()}
    torch.testing.assert_close(fresh.state_dict(), rounded, rtol=0, atol=0)


def test_a_meta_model_works_after_loading_and_stays_meta_when_refused(micro, state):
    with torch.device("meta"):
        lazy = plm_core.create_model(MICRO)
    with pytest.raises(WeightsMismatch):
        weights.load(lazy, {key: value for key, value in state.items() if key != BODY})
    assert all(tensor.is_meta for tensor in lazy.state_dict().values())
    weights.load(lazy, copy.deepcopy(state))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in lazy.parameters())
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(lazy.eval()(x), copy.deepcopy(micro).eval()(x))


def test_tensors_given_to_a_meta_model_are_not_shared_with_it(micro):
    with torch.device("meta"):
        twin = plm_core.create_model(MICRO)
    weights.load(twin, micro.state_dict())
    assert weights.fingerprint(twin) == weights.fingerprint(micro)
    assert twin.pos_embed.data_ptr() != micro.pos_embed.data_ptr()


def test_a_file_given_to_a_meta_model_may_change(micro, source):
    path = source(micro.state_dict())
    with torch.device("meta"):
        lazy = plm_core.create_model(MICRO)
    weights.load(lazy, path)
    with path.open("r+b") as file:  # as cp does; our own writers replace files
        file.write(bytes(path.stat().st_size))
    assert weights.fingerprint(lazy) == weights.fingerprint(micro)


# --- odd tensors ------------------------------------------------------------------------------------------------


def odd_tensors():
    base = torch.arange(24.0)
    return {
        "scalar": torch.tensor(3.5),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "transposed": base.reshape(4, 6).t(),
        "strided": base[::3],
        "slice": base.reshape(2, 12)[:, 3:7],
        "same storage": base,
        "expanded": torch.tensor(2.0).expand(3, 2),
        "channels last": torch.rand(1, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "bool": torch.tensor([True, False]),
        "float8": torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn),
        "complex": torch.tensor([1 + 2j]),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "parameter": nn.Parameter(torch.ones(2)),
        'name with ünïcode, "quotes" and spaces': torch.ones(1, dtype=torch.uint8),
    }


class Holder(nn.Module):
    """A module whose state dict is the tensors of its argument."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors = tensors

    def state_dict(self):
        return dict(self.tensors)


def test_odd_tensors_come_back_from_a_file(tmp_path):
    path = tmp_path / "odd.safetensors"
    weights.write(odd_tensors(), path)
    back = weights.read(path)
    assert weights.fingerprint(Holder(back)) == weights.fingerprint(
        Holder(odd_tensors() | {"channels last": back["channels last"]})
    )
    assert all(tensor.is_contiguous() for tensor in back.values())


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (3, 2)])
def test_a_model_with_one_value_seen_several_times_takes_no_weights(shape):
    model = nn.Module()
    model.register_buffer("scale", torch.zeros(1, 1).expand(shape))
    with pytest.raises(plm_core.WeightsError, match="Module takes no weights: scale is one value seen several times"):
        weights.load(model, {"scale": torch.ones(shape)})
    model.scale = torch.zeros(1, 1).expand(1, 1)
    weights.load(model, {"scale": torch.ones(1, 1)})
    assert model.scale.item() == 1


def test_tied_weights_come_back(source):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5)
            self.out.weight = self.embed.weight
            self.norm = nn.BatchNorm1d(3)  # a 0-d count

    model, other = Tied(), Tied()
    model.norm(torch.rand(4, 3))
    path = source(weights.export(model))
    assert set(weights.read(path)) == set(model.state_dict())
    weights.load(other, path)
    assert other.out.weight is other.embed.weight
    assert other.norm.num_batches_tracked.item() == 1
    assert weights.fingerprint(other) == weights.fingerprint(model)


# --- fingerprints -----------------------------------------------------------------------------------------------


def test_fingerprint_is_the_documented_digest():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[:] = torch.tensor([1.0, -2.0])
        model.bias[:] = 0.5
    bias, weight = struct.pack("<f", 0.5), struct.pack("<2f", 1.0, -2.0)
    digest = hashlib.sha256(b"bias|torch.float32|(1,)|" + bias + b"weight|torch.float32|(1, 2)|" + weight)
    assert weights.fingerprint(model) == digest.hexdigest()


def test_fingerprint_does_not_see_order_or_memory():
    tensors = odd_tensors()
    rearranged = {key: tensors[key].clone(memory_format=torch.contiguous_format) for key in reversed(tensors)}
    rearranged["parameter"] = tensors["parameter"].detach()
    assert weights.fingerprint(Holder(rearranged)) == weights.fingerprint(
        Holder(tensors | {"channels last": rearranged["channels last"]})
    )


def _flip_one_bit(tensors):
    tensors["w"].view(torch.int32)[-1] ^= 1


def _minus_zero(tensors):
    tensors["w"][0] = -0.0


def _rename(tensors):
    tensors["v"] = tensors.pop("w")


def _reshape(tensors):
    tensors["w"] = tensors["w"].reshape(2, 2)


def _reinterpret(tensors):
    tensors["w"] = tensors["w"].view(torch.int32)


def _cast(tensors):
    tensors["w"] = tensors["w"].double()


def _add_empty(tensors):
    tensors["x"] = torch.empty(0)


def _swap(tensors):
    tensors["w"], tensors["u"] = tensors["u"], tensors["w"]


@pytest.mark.parametrize(
    "change", [_flip_one_bit, _minus_zero, _rename, _reshape, _reinterpret, _cast, _add_empty, _swap]
)
def test_fingerprint_sees_every_difference(change):
    tensors = {"w": torch.tensor([0.0, 1.0, 2.0, 3.0]), "u": torch.tensor([4.0, 5.0, 6.0, 7.0])}
    before = weights.fingerprint(Holder(tensors))
    change(tensors)
    assert weights.fingerprint(Holder(tensors)) != before


def test_fingerprint_sees_buffers():
    model = nn.BatchNorm1d(2)
    before = weights.fingerprint(model)
    model(torch.rand(3, 2))
    assert weights.fingerprint(model) != before
