"""Every public image (and video) checkpoint by names and shapes: into our model, and out again, on the meta device."""

import json
import re
from pathlib import Path

import pytest
import torch

import hiera
from hiera.configs import IMAGE
from plm_core import weights
from plm_core.hookspecs import Model
from plm_core.registry import registry

HEADS = {"head.projection.weight", "head.fc.weight", "classifier.weight"}
FOLDER = Path(__file__).parent / "manifests"
VIDEO = {
    "input_size": (16, 224, 224),
    "num_classes": 400,
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}


def expand(tensors):
    """``blocks.{0..2}.norm1.weight`` stands for three tensors."""
    out = {}
    for pattern, shape in tensors.items():
        found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        numbers = range(int(found[1]), int(found[2]) + 1) if found else [None]
        for number in numbers:
            key = pattern if number is None else pattern.replace(found[0], str(number))
            out |= expand({key: shape}) if "{" in key else {key: tuple(shape)}
    return out


def cases():
    for file, layout in [("official", "official"), ("timm", "timm"), ("transformers", "transformers")]:
        for entry in json.loads((FOLDER / f"hiera_{file}.json").read_text()):
            # abs-win models and MAE decoders are not this class
            if "abswin" not in entry["layout"] and "PreTraining" not in entry["layout"]:
                backbone = layout == "transformers" and not any(k.startswith("hiera.") for k in entry["tensors"])
                yield pytest.param(entry, "transformers-backbone" if backbone else layout, id=entry["variant"])


def build(entry):
    size = re.search(r"hiera[-_](\w+?(?:[-_]plus)?)[-_](?:16x)?224", entry["variant"])[1].replace("-", "_")
    video = VIDEO if "16x224" in entry["variant"] else {}
    headless = not HEADS & set(entry["tensors"])
    return hiera.Hiera(**{**IMAGE[size], **video, **({"num_classes": 0} if headless else {})}, device="meta")


@pytest.mark.parametrize(("entry", "layout"), list(cases()))
def test_names_and_shapes_both_ways(entry, layout):
    tensors = expand(entry["tensors"])
    assert len(tensors) == entry["n_tensors"]
    model = build(entry)
    assert sum(p.numel() for p in model.parameters()) == entry["params"]
    state = {key: torch.empty(shape, device="meta") for key, shape in tensors.items()}
    _, report = weights.to_native(model, state)
    assert report.ok, report.line(entry["variant"])
    # a headless file in the original's names is in timm's too, so only the named layout is sure to be found
    assert weights.to_native(model, state, layout)[1].ok
    assert {key: tuple(value.shape) for key, value in weights.export(model, layout).items()} == tensors


def test_every_image_model_and_layout_is_covered():
    variants = {case.values[0]["variant"] for case in cases()}
    for size in IMAGE:
        dashed = size.replace("_", "-")
        wanted = {f"hiera_{size}_224", f"hiera_{size}_224.mae", f"hiera-{dashed}-224-in1k-hf", f"hiera-{dashed}-224-hf"}
        assert wanted <= variants


def test_declared_repositories_are_the_manifests(manifest):
    known = {repo for entry in manifest("hiera_official") for repo in entry["hub"]}
    declared = [p for e in registry().all(Model).values() for p in e.declaration.pretrained if p.repo]
    ours = {p.repo for p in declared if p.repo.startswith("facebook/hiera_")}
    assert len(ours) == 12
    assert ours <= known
    assert {p.license for p in declared if p.repo in ours} == {"CC-BY-NC-4.0"}
