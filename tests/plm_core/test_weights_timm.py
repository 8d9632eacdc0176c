"""Weights that come through `timm.create_model`: as strict as ours, whatever else is asked for."""

import struct

import pytest
import safetensors.torch
import timm
import torch
from timm.models._manipulate import adapt_input_conv
from torch import nn

import plm_core
from plm_core import weights
from plm_core.errors import WeightsError
from plm_core.timm_bridge.checkpoint import timm_filter
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"
BODY = "blocks.1.attn.qkv.weight"
LAYOUTS = ["native", "timm", "official", "transformers"]
TIMM_OPTIONS = [{}, {"num_classes": 7}, {"num_classes": 0}, {"in_chans": 1}, {"features_only": True}]


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
    torch.testing.assert_close(ours, {key: expected[key] for key in ours}, rtol=0, atol=0)
    assert set(expected) - set(ours) <= (
        {"head.norm.weight", "head.norm.bias"} if "features_only" in options else set()
    )
    conv = (model.model if "features_only" in options else model).patch_embed.proj.weight
    assert torch.equal(conv, adapt_input_conv(options.get("in_chans", 3), state["patch_embed.proj.weight"]))


@pytest.mark.parametrize("options", TIMM_OPTIONS, ids=str)
def test_the_file_in_the_wheel_is_what_timm_loads(options, micro):
    model = timm.create_model(MICRO, pretrained=True, **options)
    expected = body(micro)
    torch.testing.assert_close(body(model), {key: expected[key] for key in body(model)}, rtol=0, atol=0)


def test_a_new_head_is_new_and_an_old_one_is_old(micro):
    assert torch.equal(timm.create_model(MICRO, pretrained=True).head.fc.weight, micro.head.fc.weight)
    seven = timm.create_model(MICRO, pretrained=True, num_classes=7)
    assert seven.head.fc.weight.shape == (7, 96)
    assert isinstance(timm.create_model(MICRO, pretrained=True, num_classes=0).head.fc, nn.Identity)


def damaged(state, changes):
    """Return the tensors of a state dict with changes: another tensor by name, or None to take one out."""
    return {name: tensor for name, tensor in (state | changes).items() if tensor is not None}


DAMAGE = {
    "body missing": ({BODY: None}, BODY),
    "first conv missing": ({"patch_embed.proj.weight": None}, "patch_embed.proj.weight"),
    "classifier missing": ({"head.fc.weight": None}, "head.fc.weight"),
    "body misshapen": ({BODY: torch.zeros(3)}, BODY),
    "first conv of one channel": (
        {"patch_embed.proj.weight": torch.zeros(24, 1, 7, 7)},
        "patch_embed.proj.weight is [24, 1, 7, 7] in the source and [24, 3, 7, 7] in the model",
    ),
    "classifier of seven": (
        {"head.fc.weight": torch.zeros(7, 96), "head.fc.bias": torch.zeros(7)},
        "head.fc.weight",
    ),
    "left over": ({"head.junk": torch.zeros(1)}, "head.junk"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("options", TIMM_OPTIONS, ids=str)
def test_timm_loads_no_damaged_weights_whatever_is_asked_for(options, damage, state, source, one_line):
    changes, name = DAMAGE[damage]
    with one_line(WeightsMismatch, MICRO, name):
        through_timm(source(damaged(state, changes)), options)


def test_timm_loads_no_file_of_two_layouts(micro, state, source, one_line):
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


def test_timm_loads_no_corrupt_file(tmp_path, one_line):
    path = tmp_path / "corrupt.safetensors"
    whole = safetensors.torch.save({"w": torch.zeros(1)})
    for content in (whole[:-1], struct.pack("<Q", 2**64 - 1) + whole[8:]):  # truncated; an impossible header length
        path.write_bytes(content)
        with one_line(WeightsError, str(path)):
            through_timm(path)
    path.unlink()
    with one_line(WeightsError, str(path)):
        through_timm(path)


class Headed(nn.Module):
    """The members of a model that the filter reads."""

    def __init__(self, classes, bias):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, classes, bias=bias) if classes else nn.Identity()
        self.pretrained_cfg = {"architecture": "headed", "num_classes": 5, "classifier": "head"}


@pytest.mark.parametrize("classes", [5, 2, 0])
@pytest.mark.parametrize("bias", [True, False])
def test_the_filter_wants_the_head_of_the_file(classes, bias, one_line):
    complete = Headed(5, bias).state_dict()
    assert timm_filter(complete, Headed(classes, bias)).keys() == complete.keys()
    for head in (None, torch.zeros(2, 4)):
        with one_line(WeightsMismatch, "headed", "head.weight"):
            timm_filter(damaged(complete, {"head.weight": head}), Headed(classes, bias))


class Boxes(nn.Module):
    """The members of a detector that the filter reads; its heads have the background as a further class."""

    def __init__(self, classes, names=("score", "box")):
        super().__init__()
        self.num_classes = classes
        self.heads = nn.ModuleDict({names[0]: nn.Linear(4, classes + 1), names[1]: nn.Linear(4, 4 * (classes + 1))})
        self.pretrained_cfg = {"architecture": "boxes", "num_classes": 5, "classifier": ("heads.score", "heads.box")}


@pytest.mark.parametrize("classes", [5, 2, 1])
def test_the_filter_counts_the_background_of_a_detector(classes, one_line):
    complete = Boxes(5).state_dict()
    assert timm_filter(complete, Boxes(classes)).keys() == complete.keys()
    for name, head in [("heads.box.bias", torch.zeros(12)), ("heads.score.weight", None)]:
        with one_line(WeightsMismatch, "boxes", name):
            timm_filter(damaged(complete, {name: head}), Boxes(classes))


def test_the_filter_takes_a_variant_whose_heads_have_other_names(one_line):
    variant = Boxes(5, ("first", "second"))
    assert timm_filter(variant.state_dict(), variant).keys() == variant.state_dict().keys()
    with one_line(WeightsMismatch, "boxes", "unexpected: heads.score.weight"):
        timm_filter(Boxes(5).state_dict(), variant)


# --- entries of which a part is untrained -----------------------------------------------------------------------


REPO = "facebook/hiera_tiny_224.mae_in1k"


@pytest.fixture(scope="module")
def encoder():
    """Return the tensors of a tiny Hiera after MAE pretraining, and the untrained ones among them, all NaN."""
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
    loaded = weights.export(model, "official")
    assert all(torch.equal(loaded[key], value.float()) for key, value in exported.items() if key not in untrained)
    assert all(tensor.isfinite().all() for tensor in loaded.values())


def test_the_trained_part_of_such_an_entry_is_strict(encoder, hub_double, source, one_line):
    exported, untrained = encoder
    hub_double.add(REPO, {"model.safetensors": source(damaged(exported | untrained, {"blocks.3.norm1.bias": None}))})
    with one_line(WeightsMismatch, "missing: blocks.3.norm1.bias"):
        timm.create_model("hiera_image_tiny_224.mae_in1k", pretrained=True)
