"""Weights from a path, a folder, a dict or the Hub: where `weights.load` looks, and where it never does."""

from pathlib import Path

import pytest
import torch

from plm_core import weights
from plm_core.errors import WeightsError
from plm_core.hookspecs import Model, Pretrained
from plm_core.utils import licenses
from plm_core.weights import files


@pytest.mark.parametrize("kind", ["path", "Path", "folder", "dict", "tag", "hub id", "hub name", "hub revision"])
def test_load_from_everywhere(kind, micro, state, fresh, source, tmp_path, request):
    path = source(state, "model.safetensors")
    if kind.startswith("hub"):
        hub_double = request.getfixturevalue("hub_double")
        hub_double.add("org/micro", {"model.safetensors": path}, revision="v1")
        hub_double.add("org/micro", {"model.safetensors": path if kind != "hub revision" else b"newer"})
    sources = {
        "path": str(path),
        "Path": path,
        "folder": tmp_path,
        "dict": state,
        "tag": "hiera_micro_digits.sklearn_digits",
        "hub id": "hf-hub:org/micro",
        "hub name": "org/micro",
        "hub revision": "org/micro@v1",
    }
    assert weights.fingerprint(fresh) != weights.fingerprint(micro)
    report = weights.load(fresh, sources[kind])
    assert (report.ok, report.layout, report.num_fitting) == (True, "native", len(state))
    assert weights.fingerprint(fresh) == weights.fingerprint(micro)


def test_an_existing_folder_wins_over_the_hub(hub_double, state, fresh, source, tmp_path, monkeypatch, one_line):
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
def test_what_is_neither_file_nor_repository_never_reaches_the_hub(wrong, hub_double, fresh, one_line):
    with one_line(WeightsError, repr(str(wrong))):
        weights.load(fresh, wrong)
    assert hub_double.calls == []


def test_a_dict_is_not_changed(state, fresh):
    tensors = dict(weights.export(fresh, "official"))
    before = dict(tensors)
    weights.load(fresh, tensors)
    assert tensors.keys() == before.keys()
    assert all(tensors[key] is before[key] for key in tensors)


@pytest.mark.parametrize("wrong", [{"a": 1}, {1: torch.zeros(1)}, {"a": {"b": torch.zeros(1)}}])
def test_a_dict_of_something_else_is_refused(wrong, fresh, one_line):
    with one_line(WeightsError, "is not a dict of tensors by name", repr(next(iter(wrong)))):
        weights.load(fresh, wrong)


def test_declared_weights_come_from_their_repository(hub_double, caplog, monkeypatch, one_line):
    monkeypatch.setattr(licenses, "_announced", set())
    with one_line(WeightsError, "cannot get model.safetensors of facebook/hiera_tiny_224.mae_in1k: no such repository"):
        weights.read("hiera_image_tiny_224.mae_in1k")
    assert "are for non-commercial use: CC-BY-NC-4.0" in caplog.text
    for wrong in ("hiera_image_tiny_224.mae_in2k", "hiera_image_tiny_225.mae_in1k", "hiera_image_tiny_224."):
        with one_line(WeightsError, f"source {wrong!r} is neither a file nor a repository"):
            weights.read(wrong)


def test_declared_weights_keep_their_revision_and_file(hub_double, state, source, monkeypatch):
    hub_double.add("org/micro", {"w.safetensors": source(state)}, revision="v1")
    hub_double.add("org/micro", {"w.safetensors": b"newer"})
    entry = Pretrained(tag="t", license="mit", repo="org/micro", revision="v1", file="w.safetensors")
    monkeypatch.setattr(
        files, "_declared", {"micro.t": (Model(name="micro", family="", builder="", params=1), entry)}.get
    )
    assert weights.read("micro.t").keys() == state.keys()


WRAPPED = {  # what training code puts before and into the names
    "DDP": lambda key: f"module.{key}",
    "compiled": lambda key: f"_orig_mod.{key}",
    "both": lambda key: f"_orig_mod.module.{key}",
    "Lightning": lambda key: f"model.{key}",
    "compiled blocks": lambda key: key.replace("blocks.1.", "blocks.1._orig_mod."),
    "FSDP": lambda key: f"_fsdp_wrapped_module.{key.replace('blocks.1.', 'blocks.1._fsdp_wrapped_module.')}",
    "checkpointed": lambda key: key.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."),
}


@pytest.mark.parametrize("layout", ["native", "transformers"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_of_wrapped_models_are_those_of_the_model(wrapper, layout, micro, fresh):
    state = {WRAPPED[wrapper](key): value for key, value in weights.export(micro, layout).items()}
    assert weights.load(fresh, state).layout == layout
    assert weights.fingerprint(fresh) == weights.fingerprint(micro)


def test_a_prefix_of_the_model_itself_stays():
    model = torch.nn.ModuleDict({"body": torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})})
    ones = {key: torch.ones_like(value) for key, value in model.state_dict().items()}
    for prefix in ("", "module.", "model.module."):
        assert weights.load(model, {f"{prefix}{key}": value for key, value in ones.items()}).ok
        with pytest.raises(weights.WeightsMismatch, match=r"missing: body.*; unexpected: .*other"):
            weights.load(model, {f"{prefix}{key.replace('fc', 'other')}": value for key, value in ones.items()})


def test_a_prefix_makes_up_for_nothing_else(state, fresh, one_line):
    broken = {f"module.{key}": value for key, value in state.items() if key != "head.fc.bias"}
    before = weights.fingerprint(fresh)
    for more in ({}, {"module.x": torch.ones(1)}, {"head.fc.bias": state["head.fc.bias"]}):
        with one_line(weights.WeightsMismatch, "missing: "):
            weights.load(fresh, broken | more)
    assert weights.fingerprint(fresh) == before


def test_compiled_models_are_loaded_and_saved_under_their_own_names(micro, fresh, source, tmp_path):
    compiled = torch.nn.Module()  # as torch.compile makes it
    compiled._orig_mod = fresh
    for wrapped in (compiled, torch.nn.DataParallel(fresh), torch.nn.DataParallel(compiled)):
        fresh.reset_classifier(10)
        assert weights.load(wrapped, micro.state_dict()).ok
        assert weights.fingerprint(fresh) == weights.fingerprint(micro)
        weights.save(wrapped, tmp_path / "x.safetensors", "official")
        assert weights.read(tmp_path / "x.safetensors").keys() == weights.export(micro, "official").keys()
