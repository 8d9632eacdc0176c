"""Weights in every layout, out of a model and into one."""

import copy

import pytest
import torch

import plm_core
from plm_core import InputError, weights
from plm_core.errors import WeightsError
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"
LAYOUTS = ["native", "timm", "official", "transformers"]


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
    torch.testing.assert_close(weights.export(micro), state, rtol=0, atol=0)


def test_a_layout_without_a_classifier(micro, one_line):
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
def test_a_wrong_layout_is_refused_and_the_closest_one_named(layout, named, micro, fresh, one_line):
    before = weights.fingerprint(fresh)
    with one_line(WeightsMismatch, f"layout {named!r}", f"the closest layout is {layout!r}") as caught:
        weights.load(fresh, weights.export(micro, layout), layout=named)
    assert caught.value.report.closest == layout
    assert weights.fingerprint(fresh) == before


def test_an_unknown_layout_says_what_is_near(micro, fresh, state, one_line):
    for call in (
        lambda: weights.load(fresh, state, layout="transfomers"),
        lambda: weights.export(micro, "transfomers"),
    ):
        with one_line(InputError, "no weight layout 'transfomers'", "'transformers'", "Hiera"):
            call()


def test_models_without_declared_layouts_have_their_own(source, one_line):
    model = plm_core.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3)
    other = plm_core.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3)
    assert list(weights.layouts_for(model)) == ["native"]
    assert weights.fingerprint(model) != weights.fingerprint(other)
    assert weights.load(other, source(weights.export(model))).layout == "native"
    assert weights.fingerprint(model) == weights.fingerprint(other)
    with one_line(InputError, "no weight layout 'official'", "native"):
        weights.export(model, "official")
