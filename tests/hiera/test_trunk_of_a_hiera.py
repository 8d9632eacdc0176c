"""A Hiera in the trunk of a detector: the same weights, other windows."""

import pytest
import torch
import torch.nn.functional as F

from hiera import FpnNeck, HieraDet, HieraDetFpn, configs, recipes
from hiera.model import Hiera
from hiera.recipes.detecting import load_trunk
from plm_core import InputError, weights

# Windows are mask units up to the first block of the third stage. All later blocks are global, and the fourth stage
# does not pool.
TWIN = {"embed_dim": 8, "num_heads": 1, "stages": (1, 2, 2, 1), "q_pool": 2}


def twins(size=64, **changes):
    torch.manual_seed(0)
    hiera = Hiera(**TWIN, num_classes=0, img_size=size, **changes).eval()
    grid = (size // 4,) * 2
    det = HieraDet(
        **TWIN, window_spec=(8, 4, 2, 2), global_att_blocks=(4, 5), window_pos_embed_bkg_spatial_size=grid
    ).eval()
    return hiera, det


@pytest.mark.parametrize("positions", ["plain", "abs-win"])
@torch.no_grad()
def test_at_the_pretraining_size_the_detectors_trunk_is_the_hiera(positions):
    changes = {} if positions == "plain" else {"abs_win_pos_embed": True, "global_pos_size": (16, 16)}
    hiera, det = twins(**changes)
    x = torch.rand(2, 3, 64, 64)
    expected = hiera.forward_intermediates(x, intermediates_only=True)
    assert not torch.allclose(det(x)[-1], expected[-1], atol=1e-3)
    det.load_hiera(hiera)
    for a, b in zip(det(x), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_abs_win_agrees_at_other_sizes_too():
    """SAM 2 and its successors interpolate without antialiasing, which a Hiera can do too."""
    hiera, det = twins(abs_win_pos_embed=True, global_pos_size=(16, 16), global_pos_antialias=False)
    det.load_hiera(hiera.state_dict())
    x = torch.rand(1, 3, 96, 128)
    for a, b in zip(det(x), hiera.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_windows_of_more_than_a_mask_unit_hold_several(detector_encoder):
    hiera = Hiera(**detector_encoder, abs_win_pos_embed=True, global_pos_size=(6, 6), global_pos_antialias=False)
    det = HieraDet(**configs.HIERADET["micro"])
    det.load_hiera(hiera)
    torch.testing.assert_close(det.positions((24, 24)), hiera.positions((24, 24)))


@torch.no_grad()
def test_a_global_embedding_of_another_size_is_resized():
    hiera, det = twins(abs_win_pos_embed=True, global_pos_size=(7, 7))
    torch.nn.init.constant_(hiera.pos_embed, 0.5)
    det.load_hiera(hiera)
    torch.testing.assert_close(det.pos_embed, torch.full((1, 8, 16, 16), 0.5))
    torch.nn.init.normal_(hiera.pos_embed)
    det.load_hiera(hiera)
    resized = {anti: F.interpolate(hiera.pos_embed, (16, 16), mode="bicubic", antialias=anti) for anti in (True, False)}
    torch.testing.assert_close(det.pos_embed, resized[True])
    assert not torch.allclose(det.pos_embed, resized[False], atol=1e-3)
    assert torch.equal(det.pos_embed_window, hiera.pos_embed_win)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embed_dim": 16}, "wrong shape ['pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias']"),
        ({"stages": (1, 2, 2, 2)}, "unexpected ['blocks.6"),
        ({"stages": (1, 2, 1, 1)}, "missing ['blocks.5"),
        ({"init_values": 1e-5}, "unexpected ['blocks.0.ls1.gamma'"),
        ({"use_expand_proj": False}, "missing ['blocks.1.proj.weight'"),
        ({"input_size": (64, 96)}, "has 384 positions, which do not form a square"),
        ({"stages": (1, 2, 3), "mask_unit_size": (4, 4), "input_size": (48, 48)}, "is not a multiple of the window"),
    ],
)
def test_a_hiera_that_does_not_fit_leaves_the_trunk_alone(changes, said):
    _, det = twins()
    before = {name: value.clone() for name, value in det.state_dict().items()}
    with pytest.raises(InputError) as e:
        det.load_hiera(Hiera(**{**TWIN, "num_classes": 0, "img_size": None, "input_size": (64, 64), **changes}))
    assert said in str(e.value)
    assert all(torch.equal(before[name], value) for name, value in det.state_dict().items())


def test_a_trunk_can_start_from_a_trunk(tmp_path):
    trunk, other = (HieraDet(**configs.HIERADET["micro"]) for _ in range(2))
    weights.save(trunk, tmp_path / "trunk.safetensors")
    load_trunk(other, tmp_path / "trunk.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(trunk.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("layout", ["sam2", "transformers"])
def test_a_trunk_can_start_from_the_whole_of_sam_2(layout, tmp_path, caplog):
    trunk, other = (HieraDet(**configs.HIERADET["micro"]) for _ in range(2))
    encoder = HieraDetFpn(trunk, FpnNeck(16, trunk.channels[::-1], levels=(2, 3)))
    whole = {**weights.export(encoder, layout), "mask_decoder.x": torch.ones(1)}
    weights.write(whole, tmp_path / "sam2.safetensors")
    load_trunk(other, str(tmp_path / "sam2.safetensors"))
    assert weights.fingerprint(other) == weights.fingerprint(trunk)
    part = {"sam2": "image_encoder", "transformers": "vision_encoder"}[layout]
    neck = len(weights.export(encoder, layout)) - len(trunk.state_dict())
    assert (
        f"HieraDet is a part of the source; tensors of other parts are left out: {part} ({neck}), mask_dec"
        in caplog.text
    )
    assert weights.export(other, {"sam2": "sam2-file"}.get(layout, layout)).keys() == {
        key for key in whole if "trunk" in key or "backbone" in key
    }


@pytest.mark.parametrize("size", [size for size in recipes.DETECT if size != "micro"])
def test_the_hiera_of_a_size_fits_the_detectors_trunk(size):
    trunk = HieraDet(**configs.HIERADET.get(size, configs.IMAGE[size]), device="meta")
    trunk.load_hiera(Hiera(**configs.IMAGE[size], abs_win_pos_embed=True, num_classes=0, device="meta"))
    with pytest.raises(InputError, match="does not fit"):
        trunk.load_hiera(Hiera(**configs.IMAGE["tiny"], abs_win_pos_embed=True, num_classes=0, device="meta"))
