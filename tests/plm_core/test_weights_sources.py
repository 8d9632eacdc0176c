"""Weights from a path, a folder, a dict or the Hub: where `weights.load` looks, and where it never does."""

from pathlib import Path

import pytest
import torch

from plm_core import weights
from plm_core.errors import WeightsError


@pytest.mark.parametrize("kind", ["path", "Path", "folder", "dict", "hub id", "hub name", "hub revision"])
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
