from functools import partial

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import ResPostBlock

import hiera
from hiera.abswin import tile_positions
from hiera.dense.relative import relative_positions
from hiera.vitdet import relative_bias
from plm_core import InputError

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "pretrain_grid": 4, "patch_size": 8, "img_size": 64}


def small(**kwargs):
    torch.manual_seed(0)
    return hiera.ViTDet(**{**SMALL, "global_att_blocks": (1,), **kwargs}).eval()


def test_decomposed_relative_positions_of_detectron2(golden):
    g = golden("decomposed_rel_pos")
    q, k, v = (g.inputs[name] for name in "qkv")
    tables = g.weights["rel_pos_h"], g.weights["rel_pos_w"]
    bias = relative_bias(q, *tables, g.config["q_size"], g.config["k_size"])
    scores = g.config["scale"] * q @ k.transpose(-1, -2) + bias
    torch.testing.assert_close(scores, g.outputs["scores"], atol=2e-4, rtol=0)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=g.config["scale"])
    torch.testing.assert_close(out, g.outputs["out"], atol=2e-4, rtol=0)


@given(q=st.integers(1, 9), times=st.integers(1, 3), swap=st.booleans())
@settings(max_examples=30, deadline=None)
def test_relative_positions_depend_on_the_distance_only(q, times, swap):
    q, k = (q * times, q) if swap else (q, q * times)
    table = torch.arange(2.0 * max(q, k) - 1)[:, None]
    rows = relative_positions(q, k, table)[..., 0]
    a, b = torch.arange(q)[:, None] * max(k // q, 1), torch.arange(k) * max(q // k, 1)
    assert torch.equal(rows - rows[0, 0], (a - b).float())


@given(grid=st.tuples(st.integers(1, 15), st.integers(1, 15)))
@settings(max_examples=20, deadline=None)
def test_each_whole_window_gets_the_whole_embedding(grid):
    embed = torch.rand(1, 4, 4, 2)
    positions = tile_positions(embed, grid)
    assert positions.shape == (1, *grid, 2)
    for y in range(0, grid[0], 4):
        for x in range(0, grid[1], 4):
            window = positions[:, y : y + 4, x : x + 4]
            assert torch.equal(window, embed[:, : window.shape[1], : window.shape[2]])


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}


@torch.no_grad()
def test_at_the_pretraining_size_it_is_the_vit():
    vit = timm.create_model("vit_tiny_patch16_224", **VIT, class_token=False, global_pool="avg").eval()
    model = small()
    model.load_vit(vit)
    x = torch.rand(2, 3, 32, 32)
    blocks = vit.blocks(vit._pos_embed(vit.patch_embed(x)))
    torch.testing.assert_close(model(x).flatten(2).transpose(1, 2), blocks, atol=1e-5, rtol=1e-5)


def test_the_position_of_a_class_token_is_dropped():
    vit, model = timm.create_model("vit_tiny_patch16_224", **VIT), small()
    model.load_vit(vit)
    assert torch.equal(model.pos_embed, vit.pos_embed[:, 1:])


@torch.no_grad()
def test_windows_are_equal_until_a_global_block():
    """On a picture that repeats with the window, all windows have the same output: positions do not tell them apart."""
    model = small(global_att_blocks=())
    tile = torch.rand(1, 3, 32, 32)
    out = model(tile.tile(1, 1, 2, 3))
    torch.testing.assert_close(out[..., :4, :4], out[..., 4:8, 8:12])
    positional = small()
    torch.nn.init.normal_(positional.blocks[1].attn.rel_pos_h)
    out = positional(tile.tile(1, 1, 2, 3))
    assert not torch.allclose(out[..., :4, :4], out[..., 4:8, 8:12], atol=1e-3)


@torch.no_grad()
def test_any_size_of_whole_patches():
    model = small()
    assert model(torch.rand(1, 3, 40, 72)).shape == (1, 48, 5, 9)
    with pytest.raises(InputError, match="height 41, which is not a multiple of the patch, 8"):
        model(torch.rand(1, 3, 41, 72))


def vit(**changes):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**VIT, "class_token": False, "global_pool": "avg", **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embed_dim": 96}, "wrong shape ['pos_embed'"),
        ({"img_size": 64}, "has 64 positions, for a grid of 8 x 8, not for 4 x 4"),
        ({"img_size": (32, 64)}, "has 32 positions, for no square grid"),
        ({"init_values": 0.1}, "no layer scale (blocks.0.ls1.gamma)"),
        (
            {"qk_norm": True},
            "no norm of keys (blocks.0.attn.k_norm.bias), no norm of queries (blocks.0.attn.q_norm.bias)",
        ),
        ({"class_token": True, "reg_tokens": 4, "global_pool": "token"}, "no register tokens (reg_token)"),
        ({"depth": 5}, "no block 3 (blocks.3."),
        ({"depth": 2}, "missing ['blocks.2."),
        ({"pre_norm": True}, "no norm before the blocks (norm_pre.bias)"),
        ({"qkv_bias": False}, "missing ['blocks.0.attn.qkv.bias'"),
        ({"act_layer": "quick_gelu"}, "no QuickGELU()"),
        ({"norm_layer": partial(torch.nn.LayerNorm, eps=1e-5)}, "no LayerNorm((48,), eps=1e-05"),
        ({"block_fn": ResPostBlock}, "no ResPostBlock"),
    ],
)
def test_a_vit_that_does_not_fit_leaves_the_model_alone(changes, said):
    model, other = small(), vit(**changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sources = [other] if said.startswith(("no Q", "no L", "no ResP")) else [other, other.state_dict()]
    for source in sources:  # a state dict does not show activations
        with pytest.raises(InputError, match="vit ") as e:
            model.load_vit(source)
        assert said in str(e.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("changes", [{}, {"no_embed_class": True}, {"global_pool": "map"}, {"dynamic_img_size": True}])
def test_parts_of_the_head_are_dropped_from_a_state_dict(changes):
    source = vit(**({"class_token": True, "global_pool": "token"} | changes))
    model = small()
    model.load_vit(source.state_dict())
    assert torch.equal(model.pos_embed, source.pos_embed[:, -16:])
    assert torch.equal(model.blocks[2].mlp.fc2.weight, source.blocks[2].mlp.fc2.weight)


def test_drop_path_rises_to_its_rate():
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in small(drop_path_rate=0.4).blocks]
    assert rates == pytest.approx([0, 0.2, 0.4])
    assert [getattr(b.drop_path2, "drop_prob", 0.0) for b in small(drop_path_rate=0.4).blocks] == rates


@pytest.mark.parametrize(
    "make",
    [
        lambda: small(drop_path_rate=0.0),
        lambda: hiera.HieraDet(embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=()),
    ],
)
def test_gradient_checkpointing_recomputes_and_changes_nothing(make):
    model = make().train()
    calls = []
    model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        out = model(torch.rand(2, 3, 64, 64))
        (out if isinstance(out, torch.Tensor) else out[-1]).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert len(calls) == 1 + 2
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_compiles_and_exports():
    model, x = small(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        torch.testing.assert_close(program(torch.cat([x, x]))[:2], model(x))
