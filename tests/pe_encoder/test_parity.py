"""Live parity with timm and open_clip, with the same random weights."""

import pytest
import timm
import torch
from torch import nn

import plm_core
from plm_core import weights

PAIRS = {
    "pe_core_t16_384": "vit_pe_core_tiny_patch16_384",
    "pe_lang_l14_448": "vit_pe_lang_large_patch14_448",
    "pe_spatial_t16_512": "vit_pe_spatial_tiny_patch16_512",
    "pe_core_g14_448": "vit_pe_core_gigantic_patch14_448",
}
# the large ones with fewer blocks and channels
SMALLER = {"pe_lang_l14_448": (2, 128, 2), "pe_core_g14_448": (2, 192, 2)}


def shaken(model):
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("head.bias") else nn.init.normal_(parameter, std=0.1)
    return model.eval()


def pair(name, **theirs_options):
    ours_options = {"resampling": "timm"} if theirs_options else {}
    if name in SMALLER:
        depth, width, heads = SMALLER[name]
        theirs_options |= {"depth": depth, "embed_dim": width, "num_heads": heads}
        ours_options |= {"layers": depth, "width": width, "heads": heads}
    theirs = shaken(timm.create_model(PAIRS[name], **theirs_options))
    ours = plm_core.create_model(name, **ours_options).eval()
    weights.load(ours, theirs.state_dict())
    return ours, theirs


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_a_vision_tower_is_timms_at_the_native_size(name):
    ours, theirs = pair(name)
    image = torch.rand(1, 3, *ours.image_size)
    assert_same(ours(image), theirs(image))
    assert_same(ours.forward_features(image, norm=True), theirs.forward_features(image))
    for one, other in zip(
        ours.forward_intermediates(image, 2, norm=True, intermediates_only=True),
        theirs.forward_intermediates(image, 2, norm=True, intermediates_only=True),
        strict=True,
    ):
        assert_same(one, other)


@torch.no_grad()
def test_a_vision_tower_follows_timm_to_other_sizes_on_request():
    ours, theirs = pair("pe_core_t16_384", dynamic_img_size=True)
    image = torch.rand(1, 3, 96, 160)
    expected = theirs(image)
    assert_same(ours(image), expected)
    ours.resampling, ours._tables = "official", {}
    assert (ours(image) - expected).norm() > 1e-4 * expected.norm()


@torch.no_grad()
def test_both_towers_are_open_clips():
    open_clip = pytest.importorskip("open_clip")
    theirs = shaken(open_clip.create_model("PE-Core-T-16-384"))
    ours = plm_core.create_model("pe_clip_t16_384").eval()
    weights.load(ours, theirs.state_dict())
    image, ids = torch.rand(1, 3, 384, 384), torch.zeros(2, 32, dtype=torch.int64)
    ids[0, :4], ids[1, :7] = torch.tensor([49406, 320, 1929, 49407]), torch.tensor([49406, 1, 2, 3, 4, 5, 49407])
    for one, other in zip(ours(image, ids), theirs(image, ids)[:3], strict=True):
        assert_same(one, other)
    assert_same(ours.encode_text(ids), theirs.encode_text(ids))
