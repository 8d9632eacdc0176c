"""The names and shapes of every public checkpoint convert into our model and back, on the meta device."""

import json
import re
from pathlib import Path

import pytest
import torch

import hiera
import plm_core
from hiera.configs import HIERADET, IMAGE, VIDEO
from plm_core import weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import expand_manifest

HEADS = {"head.projection.weight", "head.fc.weight", "classifier.weight"}
FOLDER = Path(__file__).parent / "manifests"


def cases():
    for file in ("hiera_official", "hiera_official_mae", "hiera_timm", "hiera_transformers", "hieradet"):
        for entry in json.loads((FOLDER / f"{file}.json").read_text()):
            yield pytest.param(entry, layout_of(entry), id=f"{entry['variant']}-{entry['layout'].split()[0]}")


def layout_of(entry):
    """Return our name of the layout that a manifest names."""
    theirs = entry["layout"]
    if theirs.startswith("transformers-sam2") or "PreTraining" in theirs or "ForImageClassification" in theirs:
        return "transformers"
    if "HieraModel" in theirs:
        return "transformers-backbone"
    return "sam2" if theirs.startswith("sam2") else theirs.split("-")[0]


def build(entry):
    size = re.search(r"(tiny|small|base[-_]plus|base|large|huge)", entry["variant"])[1].replace("-", "_")
    if "hieradet" in entry["layout"] or "sam2" in entry["layout"]:
        return build_hieradet(entry, size)
    video = VIDEO if "16x224" in entry["variant"] else {}
    config = {**IMAGE[size], **video, "device": "meta"}
    if any("decoder" in key for key in entry["tensors"]):
        config.pop("num_classes", None)
        return hiera.MaskedAutoencoderHiera(**config)
    classes = [entry["tensors"][key][0] for key in HEADS & set(entry["tensors"])] or [0]
    if "abswin" in entry["variant"]:
        config |= {"abs_win_pos_embed": True, "init_values": 1e-5, "img_size": 256}
        small = {"global_pos_size": (16, 16), "use_expand_proj": False}
        config |= small if size == "small" else {}
    return hiera.Hiera(**{**config, "num_classes": classes[0]})


def build_hieradet(entry, size):
    config = {**HIERADET[size], "device": "meta"}
    if entry["variant"].startswith("hieradet_small"):
        windows = {"window_spec": (8, 4, 16, 8), "init_values": 1e-5, "num_classes": 1000}
        return hiera.HieraDet(**config | windows)
    if entry["layout"] == "timm-hieradet":
        return hiera.HieraDet(**config, num_classes=0)
    trunk = hiera.HieraDet(**config)
    return hiera.HieraDetFpn(trunk, hiera.FpnNeck(256, trunk.channels[::-1], levels=(2, 3), device="meta"))


@pytest.mark.parametrize(("entry", "layout"), list(cases()))
def test_names_and_shapes_both_ways(entry, layout):
    tensors = expand_manifest(entry["tensors"])
    assert len(tensors) == entry["n_tensors"]
    model = build(entry)
    assert sum(p.numel() for p in model.parameters()) == entry["params"]
    state = {key: torch.empty(shape, device="meta") for key, shape in tensors.items()}
    _, report = weights.to_native(model, state)
    assert report.ok, report.message(entry["variant"])
    # A file without a head has the same names for the original and for timm, so only a layout that is named is certain.
    assert weights.to_native(model, state, layout)[1].ok
    assert {key: tuple(value.shape) for key, value in weights.export(model, layout).items()} == tensors


@pytest.mark.parametrize("options", [VIDEO, {"abs_win_pos_embed": True}])
def test_variants_that_transformers_lacks_are_refused(options):
    model = hiera.Hiera(**{**IMAGE["tiny"], **options}, device="meta")
    with pytest.raises(plm_core.NotSupported, match="transformers supports Hiera only for images"):
        weights.export(model, "transformers")
    assert weights.to_native(model, model.state_dict())[1].ok  # other layouts are still tried


def test_every_image_model_and_layout_is_covered():
    variants = {case.values[0]["variant"] for case in cases()}
    assert len(cases_list := list(cases())) == 10 + 10 + 17 + 18 + 17, len(cases_list)
    for size in IMAGE:
        dashed = size.replace("_", "-")
        expected = {
            f"hiera_{size}_224",
            f"hiera_{size}_224.mae",
            f"hiera-{dashed}-224-in1k-hf",
            f"hiera-{dashed}-224-hf",
        }
        assert expected <= variants


def test_declared_repositories_are_those_of_the_manifests(manifest):
    known = {repo for entry in manifest("hiera_official") for repo in entry["hub"]}
    declared = [p for e in registry().all(Model).values() for p in e.declaration.pretrained if p.repo]
    ours = {p.repo for p in declared if p.repo.startswith("facebook/hiera_")}
    assert len(ours) == 20
    assert ours <= known
    assert {p.license for p in declared if p.repo in ours} == {"CC-BY-NC-4.0"}
