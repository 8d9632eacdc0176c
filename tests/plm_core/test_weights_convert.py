"""`plm convert`: official checkpoints into safetensors, without running any code that they hold."""

import argparse
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

import plm_core
from plm_core import InputError, weights
from plm_core.errors import MissingDependency, UnknownName, WeightsError
from plm_core.tools.conversion import convert_file
from plm_core.weights import WeightsMismatch, pickles

MICRO = "hiera_micro_digits"
LAYOUTS = ["native", "timm", "official", "transformers"]


@pytest.mark.parametrize("wrapper", [None, *pickles.WRAPPERS, *pickles.EMA_WRAPPERS])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_convert_reads_checkpoints(suffix, wrapper, micro, state, tmp_path, source):
    exported = weights.export(micro, "official")
    extra = {"epoch": 3, "lr": [0.1], "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    extra |= {"args": argparse.Namespace(lr=0.1, model="hiera", nested=argparse.Namespace(seed=1))}
    path = source({wrapper: exported, **extra} if wrapper else exported, f"checkpoint{suffix}")
    done = convert_file(path, tmp_path / "out.safetensors", to="transformers")
    assert (done.model, done.source_layout, done.tensors) == (MICRO, "official", len(state))
    torch.testing.assert_close(
        weights.read(tmp_path / "out.safetensors"), weights.export(micro, "transformers"), rtol=0, atol=0
    )


def written(path, target, **options):
    convert_file(path, target, model=MICRO, **options)
    return weights.read(target)


def test_the_average_of_the_weights_is_taken_as_timm_does(state, source, tmp_path, caplog):
    target, average = tmp_path / "out.safetensors", {key: value + 1 for key, value in state.items()}
    counted = {"n_averaged": torch.tensor(7), **{f"module.{key}": value for key, value in average.items()}}
    for plain, ema, tensors in (
        ("state_dict", "state_dict_ema", average),
        ("model", "model_ema", average),
        ("model_state", "ema_state_dict", counted),  # torch's AveragedModel
    ):
        path = source({plain: state, ema: tensors, "optimizer": {"state": {}}}, "both.pth")
        if plain != "model_state":
            assert torch.equal(timm.models.load_state_dict(path)["head.fc.bias"], average["head.fc.bias"])
        caplog.clear()
        torch.testing.assert_close(written(path, target), average, rtol=0, atol=0)
        said = [record.message for record in caplog.records if record.name == "plm_core"]
        assert said == [
            f"{path} has weights ({plain}) and their moving average ({ema}): the average is taken, as timm does"
        ]
        torch.testing.assert_close(written(path, target, ema=True), average, rtol=0, atol=0)
        torch.testing.assert_close(written(path, target, ema=False), state, rtol=0, atol=0)
        torch.testing.assert_close(written(path, target, key=plain), state, rtol=0, atol=0)
        torch.testing.assert_close(written(path, target, key=ema), average, rtol=0, atol=0)
        assert len([record for record in caplog.records if record.name == "plm_core"]) == 1  # they asked for it


def test_an_unusual_key(state, source, tmp_path, plm, one_line):
    path, target = source({"teacher": state, "student": {}, "epoch": 3}, "x.pth"), tmp_path / "out.safetensors"
    with one_line(WeightsError, f"{path} is not a dict of tensors by name ('teacher')"):
        convert_file(path, target)
    for key in ("student", "epoch", "teachr"):
        with one_line(InputError, f"no weights under key {key!r}; there are: teacher"):
            convert_file(path, target, key=key)
    with one_line(InputError, "has no moving average of its weights; there are: teacher"):
        convert_file(path, target, ema=True)
    with one_line(InputError, "is no pickle of a training script"):
        convert_file(source(state), target, ema=False)
    assert not target.exists()
    assert plm("convert", path, target, "--key", "teacher").code == 0
    torch.testing.assert_close(weights.read(target), state, rtol=0, atol=0)


def test_the_command_says_which_weights_it_takes(state, source, tmp_path, plm, caplog):
    average = {key: value + 1 for key, value in state.items()}
    path, target = source({"model": state, "model_ema": average}, "x.pth"), tmp_path / "out.safetensors"
    for words, tensors, said in (
        ((), average, True),
        (("--weights", "ema"), average, False),
        (("--weights", "model"), state, False),
    ):
        caplog.clear()
        assert plm("convert", path, target, *words).code == 0
        assert ("the average is taken, as timm does" in caplog.text) == said
        torch.testing.assert_close(weights.read(target), tensors, rtol=0, atol=0)
    wrong = plm("convert", path, target, "--weights", "best")
    assert wrong.code == 2
    assert "ema" in wrong.err


def test_timm_reads_the_same_checkpoints(micro, state, source):
    for wrapper in ("model_state", "model", "state_dict_ema"):
        path = source({wrapper: state, "args": argparse.Namespace(lr=1)}, "x.pth")
        back = timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        assert weights.fingerprint(back) == weights.fingerprint(micro)


def test_a_checkpoint_takes_no_more_memory_than_its_size(state, source, tmp_path, one_line):
    path, target = source({"w": torch.zeros(500_000)}, "stored.pt"), tmp_path / "out.safetensors"
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    assert (tmp_path / "x.pt").stat().st_size < 20_000
    with one_line(WeightsError, "x.pt is refused: its parts are compressed or overlap, which torch never writes"):
        convert_file(tmp_path / "x.pt", target)
    data = bytearray(path.read_bytes())  # a directory with each of its entries twice
    end = data.rindex(b"PK\5\6")
    count, size, start = struct.unpack("<HII", data[end + 10 : end + 20])
    data[end + 8 : end + 20] = struct.pack("<HHII", 2 * count, 2 * count, 2 * size, start)
    (tmp_path / "x.pt").write_bytes(data[:start] + 2 * data[start : start + size] + data[end:])
    with one_line(WeightsError, "x.pt is refused: its parts are compressed or overlap"):
        convert_file(tmp_path / "x.pt", target)


@pytest.mark.parametrize("change", [torch.Tensor.long, torch.Tensor.bool, lambda t: t.to(torch.complex64)])
def test_convert_writes_nothing_that_load_refuses(change, state, source, tmp_path, one_line):
    path, target = source(state | {"head.fc.bias": change(state["head.fc.bias"])}, "x.pt"), tmp_path / "out.safetensors"
    with one_line(WeightsError, "head.fc.bias is torch.", "in the source and torch.float32 in the model"):
        convert_file(path, target)
    assert not target.exists()


def test_convert_finds_the_model_in_a_larger_file(source, tmp_path, plm_registry, caplog):
    plm_registry({"name": "larger", "modules": {"larger.py": LARGER}, "entry_points": {"larger": "larger"}})
    model = plm_core.create_model("larger_encoder")
    exported = {f"encoder.{key}": value for key, value in model.state_dict().items()}
    path = source({"model": {**exported, "decoder.weight": torch.ones(10**6)}}, "x.pt")
    done = convert_file(path, tmp_path / "out.safetensors")
    assert (done.model, done.source_layout) == ("larger_encoder", "whole")
    assert "larger_encoder is a part of the source; tensors of other parts are left out: decoder (1)" in caplog.text
    torch.testing.assert_close(weights.read(tmp_path / "out.safetensors"), model.state_dict(), rtol=0, atol=0)


LARGER = """
from torch import nn
from plm_core.hookspecs import Model, WeightLayout, hookimpl
from plm_core.layouts import Rule

class Encoder(nn.Module):
    def __init__(self, num_classes=3, **kwargs):
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(5, num_classes)

def rules(model):
    return [Rule("fc.*", "encoder.fc.*")]

@hookimpl
def plm_models():
    return [Model(name="larger_encoder", family="x", builder="larger:Encoder", params=6000, classifier="fc")]

@hookimpl
def plm_weight_layouts():
    return [WeightLayout(name="whole", models=("larger:Encoder",), rules="larger:rules", part="encoder.")]
"""


def test_convert_reads_older_pickles(state, tmp_path):
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    convert_file(tmp_path / "old.pt", tmp_path / "new.safetensors")
    torch.testing.assert_close(weights.read(tmp_path / "new.safetensors"), state, rtol=0, atol=0)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "run")


@pytest.mark.parametrize("form", ["in the dict", "as a tensor's name", "bare", "raw pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_convert_refuses_pickles_that_want_to_run_code(form, suffix, state, tmp_path, one_line, listing):
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


def test_a_refused_pickle_says_what_it_asks_for(micro, tmp_path, one_line):
    torch.save({"model": micro}, tmp_path / "whole_model.pt")
    with one_line(WeightsError, "hiera.model.Hiera"):
        convert_file(tmp_path / "whole_model.pt", tmp_path / "out.safetensors")


NO_CHECKPOINT = {
    "zero bytes": b"",
    "garbage": bytes(range(256)) * 8,
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "safetensors": safetensors.torch.save({"w": torch.zeros(1)}),
}


@pytest.mark.parametrize(
    "content", ["zero bytes", "garbage", "text", "cut", "safetensors", "new", "list", "None", "numbers"]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_convert_refuses_what_is_no_checkpoint(content, state, tmp_path, one_line):
    path, target = tmp_path / "source.pt", tmp_path / "out.safetensors"
    things = {"list": [torch.zeros(1)], "None": None, "numbers": {"a": 1}}
    if content in things:
        torch.save(things[content], path)
    elif content == "new":  # a protocol that torch does not know how to read safely
        torch.save(state, path, pickle_protocol=4)
    elif content == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-5000])
    else:
        path.write_bytes(NO_CHECKPOINT[content])
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
    torch.testing.assert_close(weights.read(target), model.state_dict(), rtol=0, atol=0)


NEEDY = """
from plm_core.hookspecs import Model, hookimpl

@hookimpl
def plm_models():
    return [Model(name="a_needy_model", family="x", builder="needy:build", params=170_338, needs=("not-there",))]
"""


def test_convert_passes_over_models_that_need_more(state, source, plm_registry, tmp_path, one_line):
    plm_registry({"name": "needy", "modules": {"needy.py": NEEDY}, "entry_points": {"needy": "needy"}})
    path = source(state)
    assert convert_file(path, tmp_path / "out.safetensors").model == MICRO
    with one_line(MissingDependency, "a_needy_model", "not-there"):
        convert_file(path, tmp_path / "out.safetensors", model="a_needy_model")


def test_convert_takes_models_of_timm_by_name(source, tmp_path):
    model = plm_core.create_model("test_vit", num_classes=3)
    convert_file(source(model.state_dict(), "a.pth"), tmp_path / "b.safetensors", model="test_vit")
    torch.testing.assert_close(weights.read(tmp_path / "b.safetensors"), model.state_dict(), rtol=0, atol=0)


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
    torch.testing.assert_close(weights.read(path), weights.export(micro, "transformers"), rtol=0, atol=0)


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
def test_convert_options_that_are_wrong(options, error, parts, micro, source, tmp_path, one_line, listing):
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
        (
            {**plm_core.create_model(MICRO).state_dict(), "more": torch.zeros(2), "head.fc.bias": torch.zeros(2, 5)},
            [f"closest: {MICRO}, where 58 of its 59 tensors fit in layout 'native')", "to see what does not fit"],
        ),
        ({}, ["0 values"]),
    ],
)
def test_convert_says_when_no_model_fits(odd, parts, source, tmp_path, one_line):
    with one_line(InputError, "no declared model fits", "--model", *parts):
        convert_file(source(odd), tmp_path / "out.safetensors")


@pytest.mark.parametrize("classifier", [torch.tensor(1.0), torch.zeros(0, 96), torch.zeros(10, 95), torch.zeros(96)])
def test_convert_refuses_a_misshapen_classifier(classifier, state, source, tmp_path, one_line):
    path = source(state | {"head.fc.weight": classifier})
    with one_line(WeightsMismatch, "head.fc."):
        convert_file(path, tmp_path / "out.safetensors", model=MICRO)


def test_convert_finds_the_classes_of_a_detector(source, tmp_path, one_line):
    state = plm_core.create_model("hiera_micro_detector", num_classes=3).state_dict()
    done = convert_file(source(state), tmp_path / "out.safetensors")
    assert (done.model, done.tensors) == ("hiera_micro_detector", len(state))
    headless = {key: value for key, value in state.items() if "box_predictor" not in key}
    with one_line(WeightsMismatch, "missing: roi_heads.box_predictor.cls_score.weight"):
        convert_file(source(headless), tmp_path / "out.safetensors", model="hiera_micro_detector")


@pytest.mark.parametrize("name", ["out.pt", "out.bin", "out", "out.safetensors.tmp", "out.SAFETENSORS"])
def test_only_safetensors_are_written(name, micro, state, tmp_path, one_line):
    for call in (
        lambda: convert_file(tmp_path / "not looked at.pt", tmp_path / name),
        lambda: weights.save(micro, tmp_path / name),
        lambda: weights.write(state, tmp_path / name),
    ):
        with one_line(InputError, repr(str(tmp_path / name)), "must end in .safetensors"):
            call()
    assert not (tmp_path / name).exists()
