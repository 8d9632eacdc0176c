import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hiera
from hiera.hieradet import partition, unpartition
from plm_core import InputError, weights


@torch.no_grad()
def test_sam2_trunk_and_pyramid(golden):
    """Windows that need padding, one global block, and the neck."""
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
    """Windows of 8, 4 and then everything global is Hiera; the two differ in how they get there."""
    config = {"embed_dim": 8, "num_heads": 1, "stages": (1, 2, 2, 1)}
    det = hiera.HieraDet(**config, window_spec=(8, 4, 2, 1), global_att_blocks=(4,), num_classes=10).eval()
    plain = hiera.Hiera(
        **config, num_classes=10, img_size=64, abs_win_pos_embed=True, global_pos_antialias=False, probabilities=False
    ).eval()
    state = {k.replace("pos_embed_window", "pos_embed_win"): v for k, v in det.state_dict().items()}
    plain.load_state_dict(state)
    x = torch.rand(2, 3, 64, 64)
    # the first three blocks and the first of stage 3 are windowed in both; block 5 pools globally in Hiera only
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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hiera.HieraDet(embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=(2,)), "block 2 pools"),
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
