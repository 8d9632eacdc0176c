"""The names and shapes of every public checkpoint convert into our models and back, on the meta device."""

import json
from pathlib import Path

import pytest
import torch

import plm_core
from pe_encoder.configs import CORE, LANG, SPATIAL
from plm_core import weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import expand_manifest

FOLDER = Path(__file__).parent / "manifests"
FILES = {"official": 14, "timm": 14, "open_clip": 5}


def cases():
    for name in FILES:
        for entry in json.loads((FOLDER / f"pe_{name}.json").read_text()):
            yield pytest.param(entry, id=f"{entry['variant']}-{name}")


def our_name(entry, kind):
    return f"pe_{kind}_{entry['variant'].split('-', 2)[2].removesuffix('-Tiling').replace('-', '_').lower()}"


def state_of(entry):
    return {key: torch.empty(shape, device="meta") for key, shape in expand_manifest(entry["tensors"]).items()}


def build(name):
    with torch.device("meta"):
        return plm_core.create_model(name)


@pytest.mark.parametrize("entry", list(cases()))
def test_names_and_shapes_both_ways(entry):
    kind = entry["variant"].split("-")[1].lower()
    both = kind == "core" and entry["layout"] != "timm"
    model = build(our_name(entry, "clip" if both else kind))
    state = state_of(entry)
    # timm gives the projection a bias that the original lacks
    assert sum(value.numel() for value in state.values()) == entry["params"]
    biases = sum(value.numel() for key, value in state.items() if key.endswith("head.bias"))
    assert sum(p.numel() for p in model.parameters()) == entry["params"] - biases
    _, report = weights.to_native(model, state)
    assert report.ok, report.message(entry["variant"])
    if entry["layout"] != "timm" or "head.bias" in entry["tensors"]:  # without head and layer scale ours are timm's
        assert report.layout == entry["layout"]
    exported = weights.export(model, entry["layout"])
    assert {key: tuple(value.shape) for key, value in exported.items()} == expand_manifest(entry["tensors"])


@pytest.mark.parametrize("entry", [case for case in cases() if case.id.split("-")[1] == "Core"])
def test_the_vision_tower_loads_from_a_file_with_both_towers(entry):
    model = build(our_name(entry, "core"))
    _, report = weights.to_native(model, state_of(entry))
    assert report.ok, report.message(entry["variant"])
    parts = {"official": "official-clip", "timm": "timm", "open_clip": "open_clip"}
    assert report.layout == parts[entry["layout"]]
    assert bool(report.rest) == (entry["layout"] != "timm")


def test_every_published_model_is_covered():
    for name, number in FILES.items():
        assert sum(case.id.endswith(f"-{name}") for case in cases()) == number
    variants = {case.values[0]["variant"] for case in cases()}
    ours = {size.repo for sizes in (CORE, LANG, SPATIAL) for size in sizes.values()}
    assert {variant.removesuffix("-Tiling") for variant in variants} == ours


def test_declared_repositories_and_files_are_those_of_the_manifests(manifest):
    known = {(e["repo"], e["file"]) for name in ("timm", "open_clip") for e in manifest(f"pe_{name}")}
    ours = [e.declaration for e in registry().all(Model).values() if e.declaration.family == "pe"]
    declared = {(p.repo, p.file) for model in ours for p in model.pretrained if p.repo}
    assert declared == known


def test_a_projection_with_a_bias_is_refused(tower):
    model = tower()
    state = weights.export(model, "timm")
    state["head.bias"] = torch.ones(10)
    with pytest.raises(plm_core.WeightsError, match=r"unexpected: head\.bias"):
        weights.load(model, state)
    with pytest.raises(plm_core.WeightsError, match=r"missing: head\.weight; unexpected: head\.weight, head\.bias"):
        weights.load(model, state, layout="timm")


def test_a_classifier_has_no_place_in_the_original(tower):
    with pytest.raises(plm_core.NotSupported, match="a projection without a bias"):
        weights.export(tower(num_classes=3), "official")
