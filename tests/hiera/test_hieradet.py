import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hiera
from hiera.dense.windows import partition, unpartition
from plm_core import InputError, weights


@torch.no_grad()
def test_sam2_trunk_and_pyramid(golden):
    """The configuration has windows that need padding, one global block, and the neck."""
    g = golden("hieradet_sam2_fpn")
    neck = {key: value for key, value in g.config["neck"].items() if key != "levels"} | {"levels": [2, 3]}
    trunk = hiera.HieraDet(**g.kwargs)
    model = hiera.HieraDetFpn(trunk, hiera.FpnNeck(backbone_channel_list=trunk.channels[::-1], **neck)).eval()
    assert weights.load(model, g.weights).layout == "sam2-encoder"
    close = {"atol": 2e-4, "rtol": 0}
    maps = trunk(g.inputs["x"])
    features, positions = model(g.inputs["x"])
    for ours, name in [(maps, "features"), (features, "fpn"), (positions, "fpn_pos")]:
        for a, b in zip(ours, g.outputs_of(name), strict=True):
            torch.testing.assert_close(a, b, **close)


@torch.no_grad()
def test_same_weights_as_hiera_where_windows_are_mask_units():
    """With windows of 8, then 4, then global blocks only, a HieraDet computes what a Hiera does, by another way."""
    config = {"embed_dim": 8, "num_heads": 1, "stages": (1, 2, 2, 1)}
    det = hiera.HieraDet(**config, window_spec=(8, 4, 2, 1), global_att_blocks=(4,), num_classes=10).eval()
    plain = hiera.Hiera(
        **config, num_classes=10, img_size=64, abs_win_pos_embed=True, global_pos_antialias=False, probabilities=False
    ).eval()
    state = {k.replace("pos_embed_window", "pos_embed_win"): v for k, v in det.state_dict().items()}
    plain.load_state_dict(state)
    x = torch.rand(2, 3, 64, 64)
    # The first three blocks and the first block of stage 3 are windowed in both. Block 5 pools globally only in Hiera.
    ours = plain.forward_intermediates(x, indices=[0, 1, 2], intermediates_only=True)
    for a, b in zip(det(x), ours, strict=False):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert det.forward_head(det(x)).shape == (2, 10)


@given(size=st.tuples(st.integers(1, 13), st.integers(1, 13)), window=st.integers(1, 6), batch=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_unpartition_inverts_partition(size, window, batch):
    x = torch.rand(batch, *size, 2)
    windows = partition(x, window)
    assert windows.shape[1:] == (window, window, 2)
    assert torch.equal(unpartition(windows, window, batch, size), x)


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (224, 64)])
@torch.no_grad()
def test_any_multiple_of_32(size):
    model = hiera.HieraDet(embed_dim=8, stages=(1, 1, 2, 1), global_att_blocks=(3,)).eval()
    maps = model(torch.rand(1, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]


@given(
    windows=st.tuples(*[st.sampled_from([2, 4, 6, 8, 12])] * 3),
    q_pool=st.integers(0, 3),
    pretrain=st.booleans(),
    blocks=st.sampled_from([(), (1,), (3,), (1, 3)]),
    multiples=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_any_trunk_takes_every_multiple_that_it_states(windows, q_pool, pretrain, blocks, multiples):
    """No windows, poolings and global blocks need more than ``multiple``, and a smaller side is refused."""
    model = hiera.HieraDet(
        embed_dim=4,
        stages=(2, 2, 1),
        q_pool=q_pool,
        window_spec=windows,
        global_att_blocks=blocks,
        pretrain_grid=(windows[0], 2 * windows[0]) if pretrain else None,
    ).eval()
    size = [n * model.multiple for n in multiples]
    maps = model(torch.rand(1, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == [(size[0] // s, size[1] // s) for s in model.strides]
    with pytest.raises(InputError, match=f"not a multiple of {model.multiple}; pad it to {size[1]}"):
        model(torch.rand(1, 3, size[0], size[1] - model.multiple // 2))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hiera.HieraDet(embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=(2,)), "block 2 pools"),
        (
            lambda: recursive(window_spec=(4, 3, 4, 2)),
            "block 2 pools, so its window 3 must be a multiple of q_stride 2",
        ),
        (lambda: hiera.HieraDet(embed_dim=8, num_heads=3), "stage 1 has 8 channels, which 3 heads do not divide"),
        (lambda: hiera.HieraDet(embed_dim=8, q_stride=(2, 1), device="meta"), "q_stride (2, 1)"),
        (lambda: hiera.FpnNeck(8, [8], fuse="max"), "fuse 'max' is not allowed"),
        (lambda: small()(torch.rand(1, 3, 40, 64)), "height 40, which is not a multiple of 32; pad it to 64"),
        (lambda: small()(torch.rand(3, 64, 64)), "[batch, 3, height, width] is expected"),
        (lambda: small().forward_head([]), "num_classes is None"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(InputError) as e:
        call()
    assert said in str(e.value)


def small():
    return hiera.HieraDet(embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=())


def test_compiles_and_exports_with_a_dynamic_batch():
    model, x = small().eval(), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        for a, b, c in zip(compiled(x), model(x), program(torch.cat([x, x])), strict=True):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(c[2:], b)


def test_drop_path_rises_to_its_rate():
    model = hiera.HieraDet(embed_dim=8, stages=(1, 2, 2, 1), global_att_blocks=(), drop_path_rate=0.5)
    for name in ("drop_path1", "drop_path2"):
        rates = [getattr(getattr(block, name), "drop_prob", 0.0) for block in model.blocks]
        assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


RECURSIVE = {"embed_dim": 8, "stages": (1, 1, 2, 1), "global_att_blocks": (3,), "window_spec": (4, 2, 4, 2)}


def recursive(**kwargs):
    torch.manual_seed(0)
    return hiera.HieraDet(**{**RECURSIVE, "pretrain_grid": (12, 12), **kwargs}).eval()


@given(grid=st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=20, deadline=None)
def test_recursive_positions_repeat_with_the_pretraining_grid(grid):
    model = recursive()
    positions = model.positions(grid)
    assert positions.shape == (1, *grid, 8)
    assert torch.equal(positions[:, 12:, :], positions[:, : max(grid[0] - 12, 0), :])
    assert torch.equal(positions[:, :, 12:], positions[:, :, : max(grid[1] - 12, 0)])
    learnt = model.positions((12, 12))
    height, width = (min(side, 12) for side in grid)
    assert torch.equal(positions[:, :height, :width], learnt[:, :height, :width])


@torch.no_grad()
def test_at_the_pretraining_size_it_is_sam2s_form():
    model, sam2 = recursive(pretrain_grid=(24, 16)), hiera.HieraDet(**RECURSIVE).eval()
    sam2.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 96, 64)
    assert all(torch.equal(a, b) for a, b in zip(model(x), sam2(x), strict=True))
    larger = torch.rand(1, 3, 192, 96)
    assert not torch.allclose(model(larger)[0], sam2(larger)[0], atol=1e-4)


def tiles(model):
    """Return the maps of a picture that repeats the pretraining size 3 x 3 times, each as [B, C, 3, side, 3, side]."""
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).tile(1, 1, 3, 3)
    return [m.unflatten(3, (3, -1)).unflatten(2, (3, -1)) for m in model(x)]


def differ(m):
    """Return the difference of two tiles that do not touch the top or the left, where patches reach over the edge."""
    return float((m[:, :, 1, :, 1] - m[:, :, 2, :, 2]).abs().max())


@torch.no_grad()
def test_windows_of_8_4_14_7_hold_whole_tiles():
    """A tile of 56 tokens has 28, 14 and 7 in the later stages. The last two are one window, so all tiles are equal."""
    config = {"stages": (1, 1, 2, 1), "global_att_blocks": (), "pretrain_grid": (56, 56)}
    for m in tiles(recursive(**config, window_spec=(8, 4, 14, 7))):
        assert differ(m) < 1e-5
    large = tiles(recursive(**config, window_spec=(8, 4, 16, 8)))
    assert differ(large[1]) < 1e-5
    assert differ(large[2]) > 1e-3  # windows of 16 cut through tiles of 14


@torch.no_grad()
def test_relative_positions_tell_tiles_apart_once_they_are_learnt():
    config = {
        "stages": (1, 1, 3, 1),
        "window_spec": (8, 4, 14, 7),
        "global_att_blocks": (3,),
        "pretrain_grid": (56, 56),
    }
    plain, model = recursive(**config), recursive(**config, rel_pos_img_size=224)
    tables = {name for name, _ in model.named_parameters() if "rel_pos" in name}
    assert tables == {"blocks.3.attn.rel_pos_h", "blocks.3.attn.rel_pos_w"}  # only the global block has tables
    assert model.blocks[3].attn.rel_pos_h.shape == (2 * 224 // 16 - 1, 8)
    model.load_state_dict(plain.state_dict() | {k: v for k, v in model.state_dict().items() if k in tables})
    x = torch.rand(1, 3, 96, 160)  # not the size of the tables
    for a, b in zip(model(x), plain(x), strict=True):  # tables of zeros change nothing
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for name in tables:
        torch.nn.init.normal_(model.get_parameter(name))
    assert not torch.allclose(model(x)[2], plain(x)[2], atol=1e-3)
    assert differ(tiles(model)[2]) > 1e-3


@torch.no_grad()
def test_relative_tables_of_another_size_are_interpolated():
    """A model that interpolates its tables equals a model built for that size with the interpolated tables."""
    config = {"pretrain_grid": None, "window_spec": (4, 2, 4, 2)}
    model, built = recursive(**config, rel_pos_img_size=64), recursive(**config, rel_pos_img_size=96)
    state = model.state_dict()
    for name in [name for name in state if "rel_pos" in name]:
        torch.nn.init.normal_(state[name])
        state[name] = torch.nn.functional.interpolate(state[name].T[None], size=11, mode="linear")[0].T
    built.load_state_dict(state)
    x = torch.rand(1, 3, 96, 96)
    for a, b in zip(model(x), built(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"pretrain_grid": (12, 10)}, "pretrain_grid (12, 10) is not a multiple of the window, 4"),
        ({"rel_pos_img_size": 100}, "rel_pos_img_size 100 is not a multiple of 32"),
    ],
)
def test_sizes_that_do_not_fit_are_named(kwargs, said):
    with pytest.raises(InputError) as e:
        recursive(**kwargs)
    assert said in str(e.value)
