import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_other_vits_are_refused():
    other = timm.create_model("vit_tiny_patch16_224", **{**VIT, "embed_dim": 96})
    with pytest.raises(InputError, match="vit does not fit this ViTDet"):
        small().load_vit(other)


def test_compiles_and_exports():
    model, x = small(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        torch.testing.assert_close(program(torch.cat([x, x]))[:2], model(x))
