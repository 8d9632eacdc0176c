from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay

import hiera
import plm_core
from hiera import blocks as hiera_blocks
from hiera.configs import MICRO_DIGITS, MICRO_MOTIONS
from hiera.tokens import reroll
from plm_core import InputError, NotSupported, weights
from plm_core.testing import check_blocks

TINY = {"embed_dim": 8, "num_classes": 5}
SMALL = {**MICRO_DIGITS, **TINY}
SIGNAL = {
    "input_size": (64,),
    "q_stride": (2,),
    "mask_unit_size": (4,),
    "patch_kernel": (7,),
    "patch_stride": (4,),
    "patch_padding": (3,),
}
VIDEO = {**MICRO_MOTIONS, **TINY, "input_size": (4, 32, 32)}
del VIDEO["sep_pos_embed"]  # both forms are tested


def small(**kwargs):
    torch.manual_seed(0)
    return hiera.Hiera(**{"input_size": (32, 48), **SMALL, **kwargs}).eval()


# --- an independent reference -----------------------------------------------------------------------------------


def reference(model, x, units_local):
    """Compute the paper's model by plain spatial operations in float64, with cut-out windows and max_pool2d."""
    x = F.conv2d(x, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=4, padding=3)
    x = x.permute(0, 2, 3, 1) + model.pos_embed.view(1, *x.shape[2:], -1)
    side, maps = 4, []
    for i, block in enumerate(model.blocks):
        normed = block.norm1(x)
        pooled = block.proj is not None
        skip = max_pool(block.proj(normed)) if pooled else x
        window = side if units_local[i] else None
        x = skip + window_attention(block.attn, normed, window, pooled)
        side = side // 2 if pooled else side
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        maps.append(x)
    return model.head.fc(model.head.norm(x.mean((1, 2)))), maps


def max_pool(x):
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def window_attention(attn, x, window, pooled):
    batch, height, width, _ = x.shape
    tall, wide = (window, window) if window else (height, width)
    out_step = 2 if pooled else 1
    out = x.new_zeros(batch, height // out_step, width // out_step, attn.proj.out_features)
    q, k, v = attn.qkv(x).chunk(3, -1)
    q = max_pool(q) if pooled else q
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            rows, columns = slice(top, top + tall), slice(left, left + wide)
            q_rows = slice(top // out_step, (top + tall) // out_step)
            q_columns = slice(left // out_step, (left + wide) // out_step)
            qs, ks, vs = (
                t.flatten(1, 2).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
                for t in (q[:, q_rows, q_columns], k[:, rows, columns], v[:, rows, columns])
            )
            weights = (qs @ ks.transpose(-1, -2) / attn.head_dim**0.5).softmax(-1)
            y = (weights @ vs).transpose(1, 2).flatten(2)
            out[:, q_rows, q_columns] = y.unflatten(1, (q_rows.stop - q_rows.start, -1))
    return attn.proj(out)


@torch.no_grad()
def test_equals_the_plain_spatial_reference_in_float64():
    model = small(num_heads=2, probabilities=False).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    # stage 1 is local, and so is the first block of stage 2, because global attention begins one block late
    logits, maps = reference(model, x, units_local=[True, True, False, False])
    out, intermediates = model(x, return_intermediates=True)
    torch.testing.assert_close(out, logits, atol=1e-10, rtol=1e-10)
    for ours, theirs in zip(intermediates, [maps[0], maps[2], maps[3]], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_paper_models_switch_to_global_attention_one_block_late():
    model = hiera.Hiera(stages=(1, 2, 7, 2), device="meta")
    assert [b.attn.local for b in model.blocks] == [True] * 4 + [False] * 8
    assert [b.attn.q_stride for b in model.blocks] == [1, 4, 1, 4] + [1] * 6 + [4, 1]
    assert [b.attn.num_heads for b in model.blocks] == [1] + [2] * 2 + [4] * 7 + [8] * 2


# --- sizes and shapes -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_signals_images_and_video():
    assert small(**SIGNAL)(torch.rand(2, 3, 64)).shape == (2, 5)
    assert small()(torch.rand(2, 3, 32, 48)).shape == (2, 5)
    for separate in (True, False):
        video = hiera.Hiera(**VIDEO, sep_pos_embed=separate).eval()
        out, maps = video(torch.rand(2, 3, 4, 32, 32), return_intermediates=True)
        assert out.shape == (2, 5)
        assert [tuple(m.shape) for m in maps] == [(2, 2, 8, 8, 8), (2, 2, 4, 4, 16), (2, 2, 2, 2, 32)]


def test_img_size_is_the_size_in_space():
    assert small(img_size=64).input_size == (64, 64)
    assert small(img_size=(32, 64)).input_size == (32, 64)
    assert hiera.Hiera(**VIDEO, img_size=64, device="meta").input_size == (4, 64, 64)
    assert timm.create_model("hiera_micro_motions", img_size=64).input_size == (8, 64, 64)
    assert timm.create_model("hiera_micro_motions", img_size=(16, 32, 48)).input_size == (16, 32, 48)


@torch.no_grad()
def test_other_input_sizes_interpolate_the_positions():
    model = small()
    assert model(torch.rand(1, 3, 64, 32)).shape == (1, 5)
    assert model(torch.rand(1, 3, 32, 48)).shape == (1, 5)
    same = model.positions((8, 12))
    assert torch.equal(same.flatten(1, 2), model.pos_embed)
    larger = model.positions((16, 24))
    expected = F.interpolate(same.permute(0, 3, 1, 2), scale_factor=2, mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(larger, expected)
    video = hiera.Hiera(**VIDEO, sep_pos_embed=True).eval()
    assert video(torch.rand(1, 3, 8, 64, 32)).shape == (1, 5)


@torch.no_grad()
def test_feature_maps_are_in_natural_spatial_order():
    model = small(probabilities=False)
    x = torch.rand(1, 3, 32, 48)
    final, maps = model.forward_intermediates(x)
    outputs = {}
    for end in model.stage_ends:
        model.blocks[end].register_forward_hook(lambda _, args, out, end=end: outputs.__setitem__(end, out))
    _, channels_last = model(x, return_intermediates=True)
    for i, (nchw, nhwc) in enumerate(zip(maps, channels_last, strict=True)):
        assert torch.equal(nchw.permute(0, 2, 3, 1), nhwc)
        steps = model.stage_steps[i]
        assert torch.equal(reroll(outputs[model.stage_ends[i]], (2, 3), (2, 2), steps), nhwc)
    assert torch.equal(final, channels_last[-1].flatten(1, 2))
    # Shifting the picture by a mask unit shifts the map, except for positions and borders: no places are mixed up.
    model.pos_embed.zero_()
    wide = torch.rand(1, 3, 32, 64)
    a = model.forward_intermediates(wide, indices=[0], intermediates_only=True)[0]
    b = model.forward_intermediates(wide.roll(-16, 3), indices=[0], intermediates_only=True)[0]
    torch.testing.assert_close(a[..., 8:12], b[..., 4:8])
    assert not torch.allclose(a[..., 8:12], b[..., 8:12])


@torch.no_grad()
def test_normed_features_equal_the_heads_normed_input():
    model = small()
    x = torch.rand(1, 3, 32, 48)
    *early, last = model.forward_intermediates(x, norm=True, intermediates_only=True)
    *plain, raw = model.forward_intermediates(x, intermediates_only=True)
    for a, b in zip(early, plain, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(last, model.head.norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("fmt", ["NHWC", "NLC"])
def test_feature_formats(fmt):
    model, x = small(), torch.rand(1, 3, 32, 48)
    nchw = model.forward_intermediates(x, intermediates_only=True)[0].permute(0, 2, 3, 1)
    other = model.forward_intermediates(x, output_fmt=fmt, intermediates_only=True)[0]
    assert torch.equal(other, nchw if fmt == "NHWC" else nchw.flatten(1, 2))


@torch.no_grad()
def test_dropped_units_do_not_leak_into_kept_tokens():
    model = small()
    mask = torch.tensor([[True, False, True, False, False, True]])
    x = torch.rand(1, 3, 32, 48)
    changed = x.clone()
    changed[..., :16, 16:32] = 7  # unit 1, dropped
    assert torch.equal(model(x, mask=mask), model(changed, mask=mask))
    assert not torch.equal(model(x), model(changed))


@torch.no_grad()
def test_without_classes_the_output_is_features_not_probabilities():
    model, x = small(num_classes=0), torch.rand(2, 3, 32, 48)
    assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))


@torch.no_grad()
def test_blocks_that_no_map_needs_are_neither_run_nor_kept():
    model, x = small(), torch.rand(1, 3, 32, 48)
    ran = []
    model.blocks[-1].register_forward_hook(lambda *_: ran.append(0))
    model.forward_intermediates(x, indices=[0], stop_early=True)
    assert ran == []
    model.forward_intermediates(x, indices=[0])
    assert ran == [0]
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert len(model.blocks) == 3
    assert isinstance(model.head.norm, torch.nn.Identity)
    maps = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    assert [m.shape[1] for m in maps] == [8, 16]


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"input_size": (32, 32)}, (64, 48)),
        ({"input_size": (64, 64)}, (32, 32)),
        (SIGNAL, (128,)),
        ({**VIDEO, "sep_pos_embed": True}, (8, 64, 48)),
        ({**VIDEO, "sep_pos_embed": True}, (4, 16, 16)),
    ],
)
@torch.no_grad()
def test_weights_for_another_size_are_resampled_as_forward_does(config, size, caplog):
    source = small(**config)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    target = small(**{**config, "input_size": size})
    assert weights.load(target, source.state_dict()).ok
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(target(x), source(x), atol=1e-6, rtol=0)
    (record,) = caplog.records
    assert "resampled for another input size, which costs accuracy until finetuned: pos_embed" in record.message


def test_only_plain_positions_are_resampled(caplog):
    whole, abs_win = small(input_size=(32, 32)), {"abs_win_pos_embed": True, "global_pos_size": (4, 4)}
    wrong = {
        "not square": (small(input_size=(32, 48)), small(input_size=(64, 64))),
        "another width": (whole, small(input_size=(64, 64), embed_dim=16)),
        "video tables that are not separate": (small(**VIDEO), small(**{**VIDEO, "input_size": (8, 64, 64)})),
        "abs-win": (small(img_size=32, **abs_win), small(img_size=32, **{**abs_win, "global_pos_size": (5, 5)})),
    }
    for source, target in wrong.values():
        before = {k: v.clone() for k, v in target.state_dict().items()}
        with pytest.raises(weights.WeightsMismatch, match=r"wrong shape: .*pos_embed"):
            weights.load(target, source.state_dict())
        assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    damaged = {k: v for k, v in whole.state_dict().items() if k != "head.fc.bias"}
    with pytest.raises(weights.WeightsMismatch, match=r"missing: head.fc.bias"):
        weights.load(small(input_size=(64, 64)), damaged)
    assert caplog.records == []


@torch.no_grad()
def test_timm_makes_pretrained_models_of_another_size(caplog):
    small_one, large_one = (
        timm.create_model("hiera_micro_digits", pretrained=True, **options).eval() for options in ({}, {"img_size": 64})
    )
    assert large_one.pos_embed.shape == (1, 256, 24)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(large_one(x), small_one(x), atol=1e-5, rtol=0)
    assert ["pos_embed [1, 64, 24] to [1, 256, 24]" in r.message for r in caplog.records] == [True]
    assert (
        timm.create_model("hiera_micro_digits", pretrained=True, img_size=64, features_only=True)(x)[0].shape[2] == 16
    )


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.rand(3, 32, 48), "batch dimension missing"),
        (torch.rand(1, 1, 3, 32, 48), "[batch, 3, height, width] is expected"),
        (torch.rand(1, 1, 32, 48), "x has 1 channels"),
        (torch.rand(1, 3, 30, 48), "height 30, which is not a multiple of 16 (patch stride x mask unit); pad it to 32"),
        (torch.rand(1, 3, 32, 0), "width 0"),
    ],
)
def test_bad_inputs_are_named(x, said):
    with pytest.raises(InputError) as e:
        small()(x)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(1, 5, dtype=torch.bool), "torch.bool [1, 6] is expected"),
        (torch.ones(1, 6), "mask is torch.float32"),
        (torch.zeros(1, 6, dtype=torch.bool), "at least one"),
        (torch.tensor([[0, 6]]), "mask has indices from 0 to 6; 0 to 5 are allowed"),
        (torch.tensor([[-1, 2]]), "mask has indices from -1 to 2"),
        (torch.tensor([[2, 0, 2]]), "mask names a mask unit twice in one row"),
        (torch.zeros(1, 0, dtype=torch.int64), "torch.int64 [1, 1 to 6]"),
    ],
)
def test_bad_masks_are_named(mask, said):
    with pytest.raises(InputError, match="mask") as e:
        small()(torch.rand(1, 3, 32, 48), mask=mask)
    assert said in str(e.value)


def test_uneven_masks_are_refused():
    mask = torch.tensor([[True, True, False, False, False, False], [True] + [False] * 5])
    with pytest.raises(InputError, match=r"keeps \[2, 1\] mask units"):
        small()(torch.rand(2, 3, 32, 48), mask=mask)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input_size": (30, 48)}, "input_size has height 30"),
        ({"mask_unit_size": (8, 8)}, "mask_unit_size (8, 8) must be q_stride ** (stages - 1) = (4, 4)"),
        ({"q_pool": 3}, "q_pool 3 must be from 0 to 2"),
        ({"q_stride": (2,)}, "q_stride (2,)"),
        ({"mask_unit_attn": (True, False)}, "mask_unit_attn (True, False)"),
        ({"stages": ()}, "stages () is not allowed: one or more whole numbers"),
        ({"num_heads": 3}, "stage 1 has 8 channels, which 3 heads do not divide"),
        ({"dim_mul": 1.0}, "dim_mul 1.0 leaves stage 2 at 8 channels"),
        ({**SIGNAL, "sep_pos_embed": True}, "sep_pos_embed is for video"),
        ({"patch_padding": (0, 0)}, "patch_kernel 7 with padding 0"),
    ],
)
def test_contradictory_configurations_are_named(wrong, said):
    with pytest.raises(InputError) as e:
        small(**wrong)
    assert said in str(e.value)


# --- training ---------------------------------------------------------------------------------------------------


def test_initial_values_are_the_originals():
    model = small()
    for name, parameter in model.named_parameters():
        if name.startswith("head.fc"):
            assert parameter.abs().max() < 1e-3
        elif name.endswith("bias") and "patch_embed" not in name:
            assert (parameter == 0.02).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif "pos_embed" in name or name.endswith("weight"):
            assert 0.01 < parameter.std() < 0.03, name


def test_drop_path_rises_linearly():
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for b in small(drop_path_rate=0.3).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_gradient_checkpointing_recomputes_and_changes_nothing():
    plain, saving = small().train(), small().train()
    saving.set_grad_checkpointing()
    runs = []
    saving.blocks[0].register_forward_pre_hook(lambda *_: runs.append(0))
    x = torch.rand(2, 3, 32, 48)
    for model in (plain, saving):
        model(x).square().sum().backward()
    assert len(runs) == 2
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert a.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_layer_decay_and_weight_decay_groups():
    model = timm.create_model("hiera_micro_digits")
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    placed = {id(p): (g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}
    named = dict(model.named_parameters())
    assert placed[id(named["pos_embed"])][0] == 0
    assert placed[id(named["blocks.0.attn.qkv.weight"])][0] == 0.05
    scales = [placed[id(named[f"blocks.{i}.attn.qkv.weight"])][1] for i in range(4)]
    assert placed[id(named["patch_embed.proj.weight"])][1] == scales[0] / 2
    assert scales == sorted(scales)
    assert placed[id(named["head.fc.weight"])][1] == placed[id(named["head.norm.weight"])][1] == 1.0


@pytest.mark.parametrize("name", ["hiera_micro_digits", "hiera_micro_motions"])
def test_stems_of_other_channels_come_from_the_pretrained_one(name):
    rgb, grey, four = (
        plm_core.create_model(name, pretrained=True, in_chans=channels).patch_embed.proj.weight
        for channels in (3, 1, 4)
    )
    torch.testing.assert_close(grey, rgb.sum(1, keepdim=True))
    torch.testing.assert_close(four, rgb[:, [0, 1, 2, 0]] * 0.75)


def test_trunks_of_detectors_are_refused_with_the_reason():
    for model in (plm_core.create_model("hiera_micro_detector"), hiera.ViTDet(64, embed_dim=24, depth=1, num_heads=1)):
        with pytest.raises(
            NotSupported, match=r"no block adapter for hiera\..*, since it attends inside windows of its"
        ):
            check_blocks(model, [torch.rand(3, 64, 64)])


@pytest.mark.parametrize("index", [0, -1])
def test_windows_that_a_view_does_not_tell_are_noticed(monkeypatch, index):
    """The first blocks attend inside mask units, the last ones among all tokens."""
    model = hiera.Hiera(**MICRO_DIGITS).eval()
    image = torch.rand(1, 3, 32, 32)
    check_blocks(model, image)
    shown = list((view := hiera_blocks.view(model)).blocks)
    wrong = shown[index] = replace(shown[index], local=not shown[index].local)
    monkeypatch.setattr(hiera_blocks, "view", lambda model: replace(view, blocks=tuple(shown)))
    with pytest.raises(AssertionError, match=rf"local of {wrong.name} is {wrong.local}, but its last token reaches"):
        check_blocks(model, image)
