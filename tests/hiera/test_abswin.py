import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import hiera
from hiera.abswin import abs_win, split_plain
from plm_core import InputError, weights


@torch.no_grad()
def test_timms_outputs_at_a_size_it_was_not_built_for(golden):
    g = golden("abswin_timm_resized")
    model = hiera.Hiera(**g.kwargs, probabilities=False).eval()
    assert weights.load(model, g.weights).ok
    x = g.inputs["x"]
    close = {"atol": 2e-4, "rtol": 0}
    torch.testing.assert_close(model.positions((24, 32)).flatten(1, 2), g.outputs["pos_embed_total"], **close)
    torch.testing.assert_close(model(x), g.outputs["logits"], **close)
    torch.testing.assert_close(model.forward_features(x), g.outputs["tokens"], **close)
    maps = model.forward_intermediates(x, intermediates_only=True)
    for ours, theirs in zip(maps, g.outputs_of("intermediates_nchw"), strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@given(old=st.integers(2, 15), new=st.tuples(st.integers(2, 30), st.integers(2, 30)))
@settings(max_examples=20, deadline=None)
def test_antialiased_positions_are_torchs(old, new):
    table, window = torch.randn(1, 2, old, old), torch.zeros(1, 2, 1, 1)
    expected = F.interpolate(table, new, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(abs_win(table, window, new, antialias=True), expected, atol=5e-6, rtol=0)
    half = abs_win(table.bfloat16(), window.bfloat16(), new, antialias=True)  # for which torch has no function
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.02)


@torch.no_grad()
def test_the_size_at_creation_does_not_matter(golden):
    g = golden("abswin_timm_resized")
    model = hiera.Hiera(**{**g.kwargs, "img_size": 64}, probabilities=False).eval()
    weights.load(model, g.weights)
    torch.testing.assert_close(model(g.inputs["x"]), g.outputs["logits"], atol=2e-4, rtol=0)


@given(times=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_window_sees_the_whole_window_embedding(times, seed):
    g = torch.Generator().manual_seed(seed)
    window = torch.rand(1, 3, 4, 4, generator=g)
    grid = tuple(4 * n for n in times)
    positions = abs_win(torch.zeros(1, 3, 2, 2), window, grid)
    for y in range(0, grid[0], 4):
        for x in range(0, grid[1], 4):
            assert torch.equal(positions[0, y : y + 4, x : x + 4], window[0].permute(1, 2, 0))


def test_antialias_changes_every_size_but_the_models_own():
    """torch's two bicubic kernels differ (a = -0.5 and -0.75), so a checkpoint needs the mode it was trained with."""
    g = torch.Generator().manual_seed(0)
    embed, window = torch.rand(1, 2, 16, 16, generator=g), torch.zeros(1, 2, 4, 4)
    for side, same in [(8, False), (16, True), (32, False)]:
        smooth, plain = (abs_win(embed, window, (side, side), antialias=a) for a in (True, False))
        assert torch.allclose(smooth, plain, atol=1e-6) == same


def test_splitting_a_tile_plus_constants_returns_both():
    g = torch.Generator().manual_seed(0)
    tile = torch.rand(1, 5, 4, 4, generator=g)
    steps = torch.rand(1, 5, 3, 2, generator=g)
    plain = tile.tile(1, 1, 3, 2) + F.interpolate(steps, scale_factor=4, mode="nearest")
    rest, window, _ = split_plain(plain.movedim(1, -1), (4, 4), (3, 2))
    moved = steps.mean((2, 3), keepdim=True)  # the constant that moves from one part to the other
    torch.testing.assert_close(window, tile + moved)
    torch.testing.assert_close(rest, steps - moved)


def test_split_reports_its_error():
    g = torch.Generator().manual_seed(0)
    window, noise = torch.rand(1, 5, 4, 4, generator=g), torch.randn(1, 12, 8, 5, generator=g)
    plain = window.tile(1, 1, 3, 2).movedim(1, -1)
    assert split_plain(plain, (4, 4), (3, 2))[2] < 1e-6
    assert split_plain(plain + noise, (4, 4), (3, 2))[2] > 0.3


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match=r"grid \(6, 8\) is not a multiple of the window \(4, 4\)"):
        abs_win(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 4, 4), (6, 8))
    with pytest.raises(InputError, match="is not a multiple of the window"):
        split_plain(torch.zeros(1, 6, 8, 2), (4, 4), (2, 2))
    with pytest.raises(InputError, match="abs_win_pos_embed is for images"):
        hiera.Hiera(abs_win_pos_embed=True, sep_pos_embed=True, device="meta")
    with pytest.raises(InputError, match="expand_proj=False doubles the width"):
        hiera.Hiera(use_expand_proj=False, dim_mul=3.0, device="meta")


def test_both_embeddings_are_learned_without_decay():
    model = hiera.Hiera(abs_win_pos_embed=True, embed_dim=8, stages=(1, 1, 1, 1), img_size=64)
    assert model.no_weight_decay() == {"pos_embed", "pos_embed_win"}
    model(torch.rand(1, 3, 64, 64)).square().sum().backward()
    assert model.pos_embed.grad.abs().sum() > 0
    assert model.pos_embed_win.grad.abs().sum() > 0
