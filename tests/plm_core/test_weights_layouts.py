"""Weights in every layout, out of a model and into one."""

import copy

import pytest
import torch

import hiera
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_layouts_keep_dtypes(dtype, micro):
    half = copy.deepcopy(micro).to(dtype)
    for layout in LAYOUTS:
        exported = weights.export(half, layout)
        assert {value.dtype for value in exported.values()} == {dtype}
        assert {value.dtype for value in weights.to_native(micro, exported, layout)[0].values()} == {dtype}


@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_what_does_not_fit_is_named_as_the_file_names_it(layout, micro, fresh, one_line):
    exported = weights.export(micro, layout)
    norm, bias = {
        "official": ("norm.weight", "head.projection.bias"),
        "transformers": ("hiera.pooler.layernorm.weight", "classifier.bias"),
    }[layout]
    broken = {key: value for key, value in exported.items() if key != norm} | {bias: torch.zeros(9)}
    lines = (f"missing: {norm} (head.norm.weight in the model)", f"{bias} (head.fc.bias in the model) is [9] in the")
    with one_line(WeightsMismatch, *lines) as caught:
        weights.load(fresh, broken)
    assert caught.value.report.missing == ["head.norm.weight"]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    trunk = hiera.HieraDet(embed_dim=16, stages=(1, 1, 2, 1), global_att_blocks=(3,))
    return hiera.HieraDetFpn(trunk, hiera.FpnNeck(16, trunk.channels[::-1], levels=(2, 3)))


@pytest.mark.parametrize(("layout", "part"), [("sam2", "image_encoder."), ("transformers", "vision_encoder.")])
def test_a_part_of_a_larger_file(layout, part, encoder, source, tmp_path, caplog, one_line):
    """As SAM 2 is published: one file for the encoder, the mask decoder and the memory."""
    exported, before = weights.export(encoder, layout), weights.fingerprint(encoder)
    assert all(key.startswith(part) for key in exported)
    rest = {"mask_decoder.x.weight": torch.ones(2), "mask_decoder.y": torch.ones(1), "memory.z": torch.ones(1)}
    with torch.device("meta"):
        other = copy.deepcopy(encoder).to("meta")
    report = weights.load(other, source(rest | exported))
    assert (report.layout, report.rest, report.unexpected) == (layout, sorted(rest), [])
    assert weights.fingerprint(other) == before
    line = "HieraDetFpn is a part of the source; tensors of other parts are left out: mask_decoder (2), memory (1)"
    assert [record.message for record in caplog.records] == [line]
    caplog.clear()
    weights.load(other, exported)
    assert caplog.records == []  # nothing is left out
    # its own part must fit all the same, and a layout of the model alone has no rest
    with one_line(WeightsMismatch, "unexpected: ", "trunk.blocks.99.w"):
        weights.load(encoder, rest | exported | {f"{part}trunk.blocks.99.w": torch.ones(1)})
    with one_line(WeightsMismatch, "missing: "):
        weights.load(encoder, rest | dict(list(exported.items())[1:]))
    with one_line(WeightsMismatch, "unexpected: mask_decoder.x.weight"):
        weights.load(encoder, rest | weights.export(encoder, "native"))
    with one_line(WeightsMismatch, "unexpected: mask_decoder.x.weight"):
        weights.load(encoder, rest)
    assert weights.fingerprint(encoder) == before
