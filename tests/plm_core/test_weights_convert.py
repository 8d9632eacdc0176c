"""`plm convert`: official checkpoints into safetensors, without running any code that they hold."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import plm_core
from plm_core import InputError, weights
from plm_core.errors import MissingDependency, UnknownName, WeightsError
from plm_core.tools.conversion import convert_file
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"
LAYOUTS = ["native", "timm", "official", "transformers"]


@pytest.mark.parametrize("wrapper", [None, "model_state", "model", "state_dict", "state_dict_ema"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_convert_reads_checkpoints(suffix, wrapper, micro, state, tmp_path, source):
    exported = weights.export(micro, "official")
    extra = {"epoch": 3, "lr": [0.1], "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    path = source({wrapper: exported, **extra} if wrapper else exported, f"checkpoint{suffix}")
    done = convert_file(path, tmp_path / "out.safetensors", to="transformers")
    assert (done.model, done.source_layout, done.tensors) == (MICRO, "official", len(state))
    torch.testing.assert_close(
        weights.read(tmp_path / "out.safetensors"), weights.export(micro, "transformers"), rtol=0, atol=0
    )


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
