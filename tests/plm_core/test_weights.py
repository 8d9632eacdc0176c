"""Weights from everywhere, in every layout, into a model: all of them or none; and out again, whole or not at all."""

import contextlib
import copy
import errno
import hashlib
import json
import os
import pickle
import resource
import struct
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open
from timm.models._manipulate import adapt_input_conv
from torch import nn

import hiera
import plm_core
from plm_core import InputError, weights
from plm_core.conversion import convert_file
from plm_core.errors import MissingDependency, UnknownName, WeightsError
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"
LAYOUTS = ["native", "timm", "official", "transformers"]
BODY = "blocks.1.attn.qkv.weight"
TIMM_OPTIONS = [{}, {"num_classes": 7}, {"num_classes": 0}, {"in_chans": 1}, {"features_only": True}]


@pytest.fixture(scope="module")
def micro():
    """The shipped micro model; tests do not change it."""
    return plm_core.create_model(MICRO, pretrained=True)


@pytest.fixture(scope="module")
def state(micro):
    return micro.state_dict()


@pytest.fixture
def fresh():
    return plm_core.create_model(MICRO)


@pytest.fixture
def source(tmp_path):
    """Write tensors to a file and get its path."""

    def make(state, name="source.safetensors"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            weights.write(state, path)
        else:
            torch.save(state, path)
        return path

    return make


@contextlib.contextmanager
def one_line(error, *parts):
    """Expect an error whose message is one line with these parts."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    for part in parts:
        assert part in message


def tensors_equal(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )


def listing(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


# Where weights come from


@pytest.mark.parametrize("kind", ["path", "Path", "folder", "dict", "hub id", "hub name", "hub revision"])
def test_load_from_everywhere(kind, micro, state, fresh, source, tmp_path, request):
    path = source(state, "model.safetensors")
    if kind.startswith("hub"):
        hub = request.getfixturevalue("hub_double")
        hub.add("org/micro", {"model.safetensors": path}, revision="v1")
        hub.add("org/micro", {"model.safetensors": path if kind != "hub revision" else b"newer"})
    sources = {
        "path": str(path),
        "Path": path,
        "folder": tmp_path,
        "dict": state,
        "hub id": "hf-hub:org/micro",
        "hub name": "org/micro",
        "hub revision": "org/micro@v1",
    }
    assert weights.fingerprint(fresh) != weights.fingerprint(micro)
    report = weights.load(fresh, sources[kind])
    assert (report.ok, report.layout, report.fitting) == (True, "native", len(state))
    assert weights.fingerprint(fresh) == weights.fingerprint(micro)


def test_an_existing_folder_wins_over_the_hub(hub_double, state, fresh, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    with one_line(WeightsError, "folder 'org/name' has no model.safetensors"):
        weights.load(fresh, "org/name")
    source(state, "org/name/model.safetensors")
    assert weights.load(fresh, "org/name").ok
    assert hub_double.calls == []


@pytest.mark.parametrize(
    "wrong",
    ["nowhere.safetensors", Path("org/name"), "", "a/b/c", "nul\0", "a b", "/tmp", "https://x.org/m.safetensors"],
)
def test_what_is_neither_file_nor_repository_never_reaches_the_hub(wrong, hub_double, fresh):
    with one_line(WeightsError, repr(str(wrong))):
        weights.load(fresh, wrong)
    assert hub_double.calls == []


def test_a_dict_is_not_changed(state, fresh):
    given = dict(weights.export(fresh, "official"))
    before = dict(given)
    weights.load(fresh, given)
    assert given.keys() == before.keys()
    assert all(given[key] is before[key] for key in given)


@pytest.mark.parametrize("wrong", [{"a": 1}, {1: torch.zeros(1)}, {"a": {"b": torch.zeros(1)}}])
def test_a_dict_of_something_else_is_refused(wrong, fresh):
    with one_line(WeightsError, "is not a dict of tensors by name", repr(next(iter(wrong)))):
        weights.load(fresh, wrong)


# Layouts


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_out_and_in(layout, named, micro, fresh, source):
    path = source(weights.export(micro, layout))
    report = weights.load(fresh, path, layout if named else None)
    # timm's names are our own, and of two layouts that fit the first one is reported
    assert report.layout == (layout if named or layout != "timm" else "native")
    assert weights.fingerprint(fresh) == weights.fingerprint(micro)


def test_layouts_have_their_own_names(micro, state):
    official, transformers = (weights.export(micro, layout) for layout in ("official", "transformers"))
    assert torch.equal(official["head.projection.weight"], state["head.fc.weight"])
    assert torch.equal(official["norm.bias"], state["head.norm.bias"])
    second_stage = "hiera.encoder.stages.1.layers.0.layernorm_before.weight"
    first_of_second = plm_core.create_model(MICRO).stage_ends[0] + 1
    assert torch.equal(transformers[second_stage], state[f"blocks.{first_of_second}.norm1.weight"])
    assert torch.equal(transformers["classifier.bias"], state["head.fc.bias"])
    assert tensors_equal(weights.export(micro), state)


def test_a_layout_without_a_classifier(micro):
    with one_line(WeightsError, "transformers-backbone", "head.fc.weight", "head.fc.bias"):
        weights.export(micro, "transformers-backbone")
    headless = copy.deepcopy(micro)
    headless.reset_classifier(0)
    exported = weights.export(headless, "transformers-backbone")
    assert "embeddings.position_embeddings" in exported
    other = plm_core.create_model(MICRO, num_classes=0)
    assert weights.load(other, exported).layout == "transformers-backbone"
    assert weights.fingerprint(other) == weights.fingerprint(headless)


@pytest.mark.parametrize(
    ("layout", "named"), [("official", "transformers"), ("transformers", "official"), ("transformers", "native")]
)
def test_a_wrong_layout_is_refused_and_the_closest_one_named(layout, named, micro, fresh):
    before = weights.fingerprint(fresh)
    with one_line(WeightsMismatch, f"layout {named!r}", f"the closest layout is {layout!r}") as caught:
        weights.load(fresh, weights.export(micro, layout), layout=named)
    assert caught.value.report.closest == layout
    assert weights.fingerprint(fresh) == before


def test_an_unknown_layout_says_what_is_near(micro, fresh, state):
    for call in (
        lambda: weights.load(fresh, state, layout="transfomers"),
        lambda: weights.export(micro, "transfomers"),
    ):
        with one_line(InputError, "no weight layout 'transfomers'", "'transformers'", "Hiera"):
            call()


def test_models_without_declared_layouts_have_their_own(source):
    model = plm_core.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3)
    other = plm_core.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3)
    assert list(weights.layouts_for(model)) == ["native"]
    assert weights.fingerprint(model) != weights.fingerprint(other)
    assert weights.load(other, source(weights.export(model))).layout == "native"
    assert weights.fingerprint(model) == weights.fingerprint(other)
    with one_line(InputError, "no weight layout 'official'", "native"):
        weights.export(model, "official")


# Strict, and nothing half-loaded


def without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


def replaced(**tensors):
    return lambda state: state | {key.replace("__", "."): value for key, value in tensors.items()}


DAMAGE = {
    "missing": (without("head.norm.bias"), "missing: head.norm.bias"),
    "unexpected": (replaced(blocks__99__w=torch.zeros(1)), "unexpected: blocks.99.w"),
    "wrong shape": (
        replaced(head__fc__bias=torch.zeros(9)),
        "wrong shape: head.fc.bias is [9] in the source and [10] in the model",
    ),
    "transposed": (replaced(head__fc__weight=torch.zeros(96, 10)), "head.fc.weight is [96, 10] in the source"),
    "scalar": (replaced(pos_embed=torch.tensor(1.0)), "pos_embed is [] in the source"),
    "empty": (replaced(pos_embed=torch.zeros(0)), "pos_embed is [0] in the source"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("where", ["dict", "file"])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(damage, where, state, fresh, source):
    break_, line = DAMAGE[damage]
    before, broken = weights.fingerprint(fresh), break_(state)
    with one_line(WeightsMismatch, "Hiera", "layout 'native'", line):
        weights.load(fresh, broken if where == "dict" else source(broken))
    assert weights.fingerprint(fresh) == before


def test_the_report_lists_what_the_line_abbreviates(state, fresh):
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
    assert report.fitting == 20


def test_no_tensor_is_taken_in_place_of_another(micro, state, fresh):
    # "norm1" is not transformers' name; the rule that takes everything else of a block would put it over the real one
    exported = weights.export(micro, "transformers")
    key = next(key for key in exported if "layernorm_before.weight" in key)
    impostor = key.replace("layernorm_before", "norm1")
    for broken in (exported | {impostor: exported[key] + 1}, {impostor: exported[key] + 1} | exported):
        before = weights.fingerprint(fresh)
        with one_line(WeightsMismatch, "unexpected: "):
            weights.load(fresh, broken)
        assert weights.fingerprint(fresh) == before


# Dtypes and odd tensors


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
    assert tensors_equal(fresh.state_dict(), {key: value.to(dtype).float() for key, value in state.items()})


def test_a_meta_model_works_after_loading_and_stays_meta_when_refused(micro, state):
    with torch.device("meta"):
        lazy = plm_core.create_model(MICRO)
    with pytest.raises(WeightsMismatch):
        weights.load(lazy, without(BODY)(state))
    assert all(tensor.is_meta for tensor in lazy.state_dict().values())
    weights.load(lazy, copy.deepcopy(state))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in lazy.parameters())
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(lazy.eval()(x), copy.deepcopy(micro).eval()(x))


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
    """A module whose state is the tensors that it is given."""

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


# Fingerprints


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


# Corrupt and hostile files


def packed(header, body=b""):
    """A safetensors file with this header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + body


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
GOOD = packed({"w": F32}, bytes(4))
CORRUPT = {
    "zero bytes": b"",
    "a few bytes": GOOD[:5],
    "truncated header": GOOD[:20],
    "truncated body": GOOD[:-1],
    "trailing bytes": GOOD + b"\0",
    "garbage": bytes(range(256)) * 8,
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "pickle": pickle.dumps({"w": [1.0]}),
    "html": b"<!DOCTYPE html><html>Not found</html>",
    "header length huge": struct.pack("<Q", 2**64 - 1) + GOOD[8:],
    "header length past the end": struct.pack("<Q", 10**6) + GOOD[8:],
    "deep JSON": packed(b'{"w":' * 100_000),
    "long JSON": packed(b"[" * 1_000_000),
    "not an object": packed([]),
    "not UTF-8": packed(b'{"\xff": 1}'),
    "overlapping": packed({"v": F32, "w": F32}, bytes(4)),
    "hole": packed({"w": F32 | {"data_offsets": [4, 8]}}, bytes(8)),
    "backwards": packed({"w": F32 | {"data_offsets": [4, 0]}}, bytes(4)),
    "past the end": packed({"w": F32 | {"data_offsets": [0, 2**40]}}, bytes(4)),
    "shape and size differ": packed({"w": F32 | {"shape": [2]}}, bytes(4)),
    "shape overflows": packed({"w": F32 | {"shape": [2**62, 2**62]}}, bytes(4)),
    "negative shape": packed({"w": F32 | {"shape": [-1]}}, bytes(4)),
    "unknown dtype": packed({"w": F32 | {"dtype": "X9"}}, bytes(4)),
    "metadata not text": packed({"__metadata__": {"a": 1}, "w": F32}, bytes(4)),
}


def test_the_good_file_is_good(tmp_path):
    (tmp_path / "good.safetensors").write_bytes(GOOD)
    assert weights.read(tmp_path / "good.safetensors")["w"].tolist() == [0]


@pytest.mark.parametrize("fault", CORRUPT)
def test_corrupt_files_are_one_line_and_harmless(fault, fresh, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(CORRUPT[fault])
    before = weights.fingerprint(fresh)
    for source in (path, tmp_path):
        with one_line(WeightsError, f"{path} is not a readable safetensors file"):
            weights.load(fresh, source)
    assert weights.fingerprint(fresh) == before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read even by root")
def test_an_unreadable_file(fresh, tmp_path):
    path = tmp_path / "model.safetensors"
    path.symlink_to("/proc/self/mem")
    with one_line(WeightsError, str(path)):
        weights.load(fresh, path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to itself", "link to nothing"])
def test_things_that_are_no_files(kind, fresh, tmp_path):
    path = tmp_path / "x.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # opening it would wait for ever
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "nothing")
    with one_line(WeightsError, str(path)):
        weights.load(fresh, path)


def test_an_empty_file_of_no_tensors_lacks_everything(state, fresh, tmp_path):
    path = tmp_path / "none.safetensors"
    path.write_bytes(packed({}))
    with one_line(WeightsMismatch, "0 tensors fit", "missing: "):
        weights.load(fresh, path)


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w.pth", "w.ckpt", "w.pkl", "w.tar"])
def test_load_does_not_read_pickles(name, state, fresh, source):
    with one_line(WeightsError, "is a pickle and is not read", f"plm convert {name}"):
        weights.load(fresh, source(state, name))


def test_a_folder_with_a_pickle_only(state, fresh, source, tmp_path):
    source(state, "pytorch_model.bin")
    with one_line(WeightsError, "has no model.safetensors"):
        weights.load(fresh, tmp_path)


# plm convert


@pytest.mark.parametrize("wrapper", [None, "model_state", "model", "state_dict", "state_dict_ema"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_convert_reads_checkpoints(suffix, wrapper, micro, state, tmp_path, source):
    exported = weights.export(micro, "official")
    extra = {"epoch": 3, "lr": [0.1], "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    path = source({wrapper: exported, **extra} if wrapper else exported, f"checkpoint{suffix}")
    done = convert_file(path, tmp_path / "out.safetensors", to="transformers")
    assert (done.model, done.source_layout, done.tensors) == (MICRO, "official", len(state))
    assert tensors_equal(weights.read(tmp_path / "out.safetensors"), weights.export(micro, "transformers"))


def test_convert_reads_older_pickles(state, tmp_path):
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    convert_file(tmp_path / "old.pt", tmp_path / "new.safetensors")
    assert tensors_equal(weights.read(tmp_path / "new.safetensors"), state)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "run")


@pytest.mark.parametrize("form", ["in the dict", "as a tensor's name", "bare", "raw pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_convert_refuses_pickles_that_want_to_run_code(form, suffix, state, tmp_path):
    marker, path, target = tmp_path / "marker", tmp_path / f"evil{suffix}", tmp_path / "out.safetensors"
    target.write_bytes(b"before")
    evil = Evil(marker)
    if form == "raw pickle":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    else:
        torch.save({"in the dict": {**state, "x": evil}, "as a tensor's name": {evil: state}, "bare": evil}[form], path)
    before = listing(tmp_path)
    with one_line(WeightsError, f"{path} is refused", "could run code"):
        convert_file(path, target)
    assert not marker.exists()
    assert listing(tmp_path) == before
    with (tmp_path / "proof").open("wb") as file:  # the pickle is a live one
        pickle.dump(evil, file)
    with (tmp_path / "proof").open("rb") as file:
        pickle.load(file)
    assert marker.read_text() == "run"


def test_a_refused_pickle_says_what_it_asks_for(micro, tmp_path):
    torch.save({"model": micro}, tmp_path / "whole_model.pt")
    with one_line(WeightsError, "hiera.model.Hiera"):
        convert_file(tmp_path / "whole_model.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "content", ["zero bytes", "garbage", "text", "cut", "safetensors", "new", "list", "None", "numbers"]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_convert_refuses_what_is_no_checkpoint(content, state, tmp_path):
    path, target = tmp_path / "source.pt", tmp_path / "out.safetensors"
    things = {"list": [torch.zeros(1)], "None": None, "numbers": {"a": 1}}
    if content in things:
        torch.save(things[content], path)
    elif content == "new":  # a protocol that torch does not know how to read safely
        torch.save(state, path, pickle_protocol=4)
    else:
        torch.save(state, path)
        path.write_bytes({"cut": path.read_bytes()[:-5000], "safetensors": GOOD}.get(content) or CORRUPT[content])
    with one_line(WeightsError, str(path)) as caught:
        convert_file(path, target)
    assert "run code" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [10, 7, 0])
def test_convert_finds_the_model_with_its_head(layout, classes, source, tmp_path):
    model = plm_core.create_model(MICRO, num_classes=classes)
    target = tmp_path / "out.safetensors"
    done = convert_file(source(weights.export(model, layout)), target)
    assert (done.model, done.source_layout) == (MICRO, layout if layout != "timm" else "native")
    assert tensors_equal(weights.read(target), model.state_dict())


NEEDY = """
from plm_core.hookspecs import Model, hookimpl

@hookimpl
def plm_models():
    return [Model(name="a_needy_model", family="x", builder="needy:build", params=170_338, needs=("not-there",))]
"""


def test_convert_passes_over_models_that_need_more(state, source, plm_registry, tmp_path):
    plm_registry({"name": "needy", "modules": {"needy.py": NEEDY}, "entry_points": {"needy": "needy"}})
    path = source(state)
    assert convert_file(path, tmp_path / "out.safetensors").model == MICRO
    with one_line(MissingDependency, "a_needy_model", "not-there"):
        convert_file(path, tmp_path / "out.safetensors", model="a_needy_model")


def test_convert_takes_models_of_timm_by_name(source, tmp_path):
    model = plm_core.create_model("test_vit", num_classes=3)
    convert_file(source(model.state_dict(), "a.pth"), tmp_path / "b.safetensors", model="test_vit")
    assert tensors_equal(weights.read(tmp_path / "b.safetensors"), model.state_dict())


def test_convert_keeps_dtypes_and_writes_what_it_is(micro, source, tmp_path):
    half = {key: value.half() for key, value in weights.export(micro, "official").items()}
    half["norm.bias"] = half["norm.bias"].double()
    target = tmp_path / "new" / "folder" / "out.safetensors"
    convert_file(source(half), target, to="timm")
    written = weights.read(target)
    assert {key for key, value in written.items() if value.dtype == torch.float64} == {"head.norm.bias"}
    assert {value.dtype for key, value in written.items() if key != "head.norm.bias"} == {torch.float16}
    with safe_open(target, "pt") as file:
        assert file.metadata() == {"format": "pt", "model": MICRO, "layout": "timm"}


def test_convert_in_place(micro, source):
    path = source(weights.export(micro, "official"))
    convert_file(path, path, to="transformers")
    assert tensors_equal(weights.read(path), weights.export(micro, "transformers"))


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"to": "oficial"}, InputError, ["no weight layout 'oficial'", "'official'"]),
        ({"layout": "transformer"}, InputError, ["no weight layout 'transformer'", "'transformers'"]),
        ({"layout": "transformers"}, WeightsMismatch, [MICRO, "the closest layout is 'official'"]),
        ({"to": "transformers-backbone"}, WeightsError, ["has no place for", "head.fc.weight"]),
        ({"model": "hiera_micro_digit"}, UnknownName, ["no model 'hiera_micro_digit'", repr(MICRO)]),
        ({"model": "hiera_image_tiny_224"}, WeightsMismatch, ["hiera_image_tiny_224", "pos_embed"]),
    ],
)
def test_convert_options_that_are_wrong(options, error, parts, micro, source, tmp_path):
    path = source(weights.export(micro, "official"))
    before = listing(tmp_path)
    with one_line(error, *parts):
        convert_file(path, tmp_path / "out.safetensors", **options)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("odd", "parts"),
    [
        ({"w": torch.zeros(3)}, ["3 values", "none is near in size"]),
        ({"w": torch.zeros(170_338)}, ["170,338 values", "closest in size: ", MICRO]),
        ({}, ["0 values"]),
    ],
)
def test_convert_says_when_no_model_fits(odd, parts, source, tmp_path):
    with one_line(InputError, "no model of the hub fits", "--model", *parts):
        convert_file(source(odd), tmp_path / "out.safetensors")


@pytest.mark.parametrize("classifier", [torch.tensor(1.0), torch.zeros(0, 96), torch.zeros(10, 95), torch.zeros(96)])
def test_convert_refuses_a_misshapen_classifier(classifier, state, source, tmp_path):
    path = source(state | {"head.fc.weight": classifier})
    with one_line(WeightsMismatch, "head.fc."):
        convert_file(path, tmp_path / "out.safetensors", model=MICRO)


@pytest.mark.parametrize("name", ["out.pt", "out.bin", "out", "out.safetensors.tmp", "out.SAFETENSORS"])
def test_only_safetensors_are_written(name, micro, state, tmp_path):
    for call in (
        lambda: convert_file(tmp_path / "not looked at.pt", tmp_path / name),
        lambda: weights.save(micro, tmp_path / name),
        lambda: weights.write(state, tmp_path / name),
    ):
        with one_line(InputError, repr(str(tmp_path / name)), "must end in .safetensors"):
            call()
    assert not (tmp_path / name).exists()


# Written whole or not at all


@contextlib.contextmanager
def full_disk_after(size):
    """Let no file grow beyond ``size`` bytes: the kernel then refuses writes in the middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_kernel_refuses_leaves_the_old_file(micro, state, source, tmp_path):
    path, target = source(state), tmp_path / "target.safetensors"
    weights.write({"w": torch.zeros(1)}, target)
    before = listing(tmp_path)
    for call in (
        lambda: convert_file(path, target, to="official"),
        lambda: weights.save(micro, target),
        lambda: weights.save(micro, tmp_path / "new.safetensors"),
    ):
        with full_disk_after(200_000), one_line(WeightsError, "cannot write", str(tmp_path)):
            call()
        assert listing(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_stops_in_the_middle_leaves_the_old_file(error, micro, tmp_path, monkeypatch):
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"before")

    def half(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    if isinstance(error, OSError):
        with one_line(WeightsError, f"cannot write {target}", "No space left on device"):
            weights.save(micro, target)
    else:
        with pytest.raises(KeyboardInterrupt):
            weights.save(micro, target)
    assert listing(tmp_path) == {Path("target.safetensors"): b"before"}


def test_places_that_cannot_be_written_to(state, tmp_path):
    (tmp_path / "folder.safetensors" / "x").mkdir(parents=True)
    (tmp_path / "file").write_text("before")
    before = listing(tmp_path)
    for target in (tmp_path / "folder.safetensors", tmp_path / "file" / "below.safetensors"):
        with one_line(WeightsError, f"cannot write {target}"):
            weights.write(state, target)
    assert listing(tmp_path) == before


def test_tensors_that_safetensors_cannot_hold(tmp_path):
    with one_line(WeightsError, "cannot write"):
        weights.write({"sparse": torch.eye(3).to_sparse()}, tmp_path / "out.safetensors")
    assert listing(tmp_path) == {}


# Through timm


def through_timm(path, options=None):
    return timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **(options or {}))


def body(model):
    """The tensors of a model that no option of TIMM_OPTIONS changes, by the names of the whole model."""
    state = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    return {key: value for key, value in state.items() if not key.startswith(("head.fc.", "patch_embed.proj.weight"))}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", TIMM_OPTIONS, ids=str)
def test_timm_gives_the_shipped_weights_whatever_is_asked_for(options, layout, micro, state, source):
    model = through_timm(source(weights.export(micro, layout)), options)
    ours = body(model)
    expected = body(micro)
    assert tensors_equal(ours, {key: expected[key] for key in ours})
    assert set(expected) - set(ours) <= (
        {"head.norm.weight", "head.norm.bias"} if "features_only" in options else set()
    )
    conv = (model.model if "features_only" in options else model).patch_embed.proj.weight
    assert torch.equal(conv, adapt_input_conv(options.get("in_chans", 3), state["patch_embed.proj.weight"]))


@pytest.mark.parametrize("options", TIMM_OPTIONS, ids=str)
def test_the_file_in_the_wheel_is_what_timm_loads(options, micro):
    model = timm.create_model(MICRO, pretrained=True, **options)
    expected = body(micro)
    assert tensors_equal(body(model), {key: expected[key] for key in body(model)})


def test_a_new_head_is_new_and_an_old_one_is_old(micro):
    assert torch.equal(timm.create_model(MICRO, pretrained=True).head.fc.weight, micro.head.fc.weight)
    seven = timm.create_model(MICRO, pretrained=True, num_classes=7)
    assert seven.head.fc.weight.shape == (7, 96)
    assert isinstance(timm.create_model(MICRO, pretrained=True, num_classes=0).head.fc, nn.Identity)


TIMM_DAMAGE = {
    "body missing": (without(BODY), BODY),
    "first conv missing": (without("patch_embed.proj.weight"), "patch_embed.proj.weight"),
    "classifier missing": (without("head.fc.weight"), "head.fc.weight"),
    "body misshapen": (replaced(**{BODY: torch.zeros(3)}), BODY),
    "first conv of one channel": (
        replaced(patch_embed__proj__weight=torch.zeros(24, 1, 7, 7)),
        "patch_embed.proj.weight is [24, 1, 7, 7] in the source and [24, 3, 7, 7] in the model",
    ),
    "classifier of seven": (
        replaced(head__fc__weight=torch.zeros(7, 96), head__fc__bias=torch.zeros(7)),
        "head.fc.weight",
    ),
    "left over": (replaced(head__junk=torch.zeros(1)), "head.junk"),
}


@pytest.mark.parametrize("damage", TIMM_DAMAGE)
@pytest.mark.parametrize("options", TIMM_OPTIONS, ids=str)
def test_timm_loads_no_damaged_weights_whatever_is_asked_for(options, damage, state, source):
    break_, name = TIMM_DAMAGE[damage]
    with one_line(WeightsMismatch, MICRO, name):
        through_timm(source(break_(state)), options)


def test_timm_loads_no_file_of_two_layouts(micro, state, source):
    exported = weights.export(micro, "official")
    with one_line(WeightsMismatch, "layout 'official'", "unexpected: head.fc.weight"):
        through_timm(source(exported | {"head.fc.weight": state["head.fc.weight"] + 1}))


@pytest.mark.parametrize("layout", ["native", "transformers"])
def test_given_tensors_are_not_taken_for_those_of_the_entry(layout):
    small = {"embed_dim": 8, "num_classes": 1000}  # the entry says official layout
    other = plm_core.create_model("hiera_image_tiny_224", **small)
    overlay = {"state_dict": weights.export(other, layout)}
    model = timm.create_model("hiera_image_tiny_224", pretrained=True, pretrained_cfg_overlay=overlay, **small)
    assert weights.fingerprint(model) == weights.fingerprint(other)


def test_timm_loads_no_corrupt_file(tmp_path):
    path = tmp_path / "corrupt.safetensors"
    for content in (CORRUPT["truncated body"], CORRUPT["header length huge"]):
        path.write_bytes(content)
        with one_line(WeightsError, str(path)):
            through_timm(path)
    path.unlink()
    with one_line(WeightsError, str(path)):
        through_timm(path)


class Headed(nn.Module):
    """What the filter needs of a model."""

    def __init__(self, classes, bias):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, classes, bias=bias) if classes else nn.Identity()
        self.pretrained_cfg = {"architecture": "headed", "num_classes": 5, "classifier": "head"}


@pytest.mark.parametrize("classes", [5, 2, 0])
@pytest.mark.parametrize("bias", [True, False])
def test_the_filter_wants_the_head_of_the_file(classes, bias):
    complete = Headed(5, bias).state_dict()
    assert weights.timm_filter(complete, Headed(classes, bias)).keys() == complete.keys()
    for broken in (without("head.weight")(complete), complete | {"head.weight": torch.zeros(2, 4)}):
        with one_line(WeightsMismatch, "headed", "head.weight"):
            weights.timm_filter(broken, Headed(classes, bias))


# Weights of which a part means nothing


REPO = "facebook/hiera_tiny_224.mae_in1k"


@pytest.fixture(scope="module")
def encoder():
    """A tiny Hiera as the MAE pretraining leaves it: what is not trained is poisoned."""
    with torch.device("meta"):
        official = weights.export(plm_core.create_model("hiera_image_tiny_224"), "official")
    exported = {key: torch.rand(meta.shape, dtype=torch.bfloat16) for key, meta in official.items()}
    untrained = {k: torch.full_like(v, torch.nan) for k, v in exported.items() if k.startswith(("norm.", "head."))}
    assert len(untrained) == 4
    return exported, untrained


@pytest.mark.parametrize(("head", "options"), [("poisoned", {}), ("absent", {}), ("poisoned", {"num_classes": 3})])
def test_untrained_entries_are_not_loaded(head, options, encoder, hub_double, source):
    exported, untrained = encoder
    served = exported | untrained if head == "poisoned" else {k: v for k, v in exported.items() if k not in untrained}
    hub_double.add(REPO, {"model.safetensors": source(served)})
    model = timm.create_model("hiera_image_tiny_224.mae_in1k", pretrained=True, **options)
    assert model.num_classes == options.get("num_classes", 0)
    got = weights.export(model, "official")
    assert all(torch.equal(got[key], value.float()) for key, value in exported.items() if key not in untrained)
    assert all(tensor.isfinite().all() for tensor in got.values())


def test_the_trained_part_of_such_an_entry_is_strict(encoder, hub_double, source):
    exported, untrained = encoder
    hub_double.add(REPO, {"model.safetensors": source(without("blocks.3.norm1.bias")(exported | untrained))})
    with one_line(WeightsMismatch, "missing: blocks.3.norm1.bias"):
        timm.create_model("hiera_image_tiny_224.mae_in1k", pretrained=True)


# Folders for the Hub


def test_save_pretrained_comes_back_by_both_doors(micro, tmp_path):
    folder = tmp_path / "folder"
    model = plm_core.create_model(MICRO, num_classes=4, in_chans=1)
    weights.save_pretrained(model, folder, license="Apache-2.0", card="Trained on nothing.")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    for create in (plm_core.create_model, timm.create_model):
        back = create(f"local-dir:{folder}", pretrained=True)
        assert (back.num_classes, back.in_chans) == (4, 1)
        assert weights.fingerprint(back) == weights.fingerprint(model)
    card = (folder / "README.md").read_text()
    assert 'license: "apache-2.0"' in card  # as the Hub spells it
    assert "Trained on nothing." in card


def test_save_pretrained_does_not_pass_on_another_license(tmp_path):
    model = plm_core.create_model(MICRO)
    model.pretrained_cfg |= {"license": "cc-by-nc-4.0", "description": "of the weights it may have started from"}
    weights.save_pretrained(model, tmp_path, license="mit")
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (config["license"], config["description"]) == ("mit", None)


@pytest.mark.parametrize(
    ("make", "license", "part"),
    [
        (
            lambda: hiera.Hiera(input_size=(64, 64), stages=(1, 1), mask_unit_size=(2, 2), q_pool=1),
            "mit",
            "create_model",
        ),
        (lambda: plm_core.create_model(MICRO, features_only=True), "mit", "features_only"),
        (lambda: plm_core.create_model(MICRO), "", "license is empty"),
    ],
)
def test_save_pretrained_refuses_before_it_writes(make, license, part, tmp_path):
    with one_line(InputError, part):
        weights.save_pretrained(make(), tmp_path / "folder", license)
    assert not (tmp_path / "folder").exists()


def test_tensors_given_to_a_meta_model_are_not_shared_with_it(micro):
    with torch.device("meta"):
        twin = plm_core.create_model(MICRO)
    weights.load(twin, micro.state_dict())
    assert weights.fingerprint(twin) == weights.fingerprint(micro)
    assert twin.pos_embed.data_ptr() != micro.pos_embed.data_ptr()


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
def test_resampling_makes_up_for_nothing_else(state, caplog):
    model = Sized(4)
    with one_line(WeightsMismatch, "table is"):  # reported as it is in the source
        weights.load(model, state)
    assert not model.table.any()
    assert caplog.records == []
