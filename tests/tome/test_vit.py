"""Token Merging in timm's vision transformers: outputs of the original, ways to call a model, and removal."""

import copy
import itertools
import json
import math
import pickle
import threading
import warnings
from functools import partial

import pytest
import timm
import torch

import plm_core
import tome
from plm_core import InputError, NotSupported, blocks, weights
from tome.schedule import Target
from tome.vit.maps import UnmergingProxy
from tome.vit.tracing import trace

CLOSE = {"atol": 2e-5, "rtol": 0}
KINDS = {
    "vit_cls": "vit_tiny_patch16_224",
    "vit_gap_nocls": "vit_tiny_patch16_224",
    "vit_distilled": "deit_tiny_distilled_patch16_224",
    "vit_mae_gap": "vit_tiny_patch16_224",
}
RUNS = {
    "vit_cls": ("r0", "r5", "r5_noprop", "r_list", "r_decr", "r_incr", "r_half", "r_huge"),
    "vit_gap_nocls": ("r4", "r4_noprop", "r_list"),
    "vit_distilled": ("r5", "r5_noprop"),
    "vit_mae_gap": ("r0", "r5", "r5_prop"),
}


def model_of(recorded, kind):
    options = dict(recorded.config["model"])
    if options.pop("gp", False):
        options |= {"global_pool": "avg"}
    model = timm.create_model(KINDS[kind], **options).eval()
    model.load_state_dict(recorded.weights)
    return model


@pytest.mark.parametrize(("kind", "run"), [(kind, run) for kind, runs in RUNS.items() for run in runs])
@torch.no_grad()
def test_outputs_of_the_original(golden, kind, run):
    recorded = golden(kind)
    model, x = model_of(recorded, kind), recorded.inputs["image"]
    before = model(x)
    if "unpatched" in recorded.outputs:
        torch.testing.assert_close(before, recorded.outputs["unpatched"], **CLOSE)
    config, expected = recorded.config["runs"][run], recorded.of(run)
    r = config["r"] if not isinstance(config["r"], dict) else tuple(config["r"]["pair"])
    # the original's model for MAE weights pools by size, as ours does by default, and its others do not
    tome.apply(model, r, prop_attn=config["prop_attn"], unmerge=None if kind == "vit_mae_gap" else False)
    traced = trace(model, x)
    torch.testing.assert_close(traced.output, expected["logits"], **CLOSE)
    if kind == "vit_mae_gap":
        tome.remove(model)
        tome.apply(model, r, prop_attn=config["prop_attn"], unmerge=False)
    last = []
    hook = model.blocks[-1].register_forward_hook(lambda module, args, out: last.append(out))
    model(x)
    hook.remove()
    torch.testing.assert_close(last[0], expected["last_block"], **CLOSE)
    if "size" in expected:
        assert torch.equal(traced.sizes[-1], expected["size"])
    if "source" in expected:
        assert torch.equal(traced.source(), expected["source"])
    tome.remove(model)
    assert torch.equal(model(x), before)


SIZE = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 5}


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def vit(plain):
    return copy.deepcopy(plain)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(plain, images):
    with torch.no_grad(), tome.applied(copy.deepcopy(plain), r=9) as model:
        return model(images)


def test_copies_and_pickles_merge_as_well(vit, images, expected):
    keys = list(vit.state_dict())
    tome.apply(vit, r=9)
    assert list(vit.state_dict()) == keys
    with torch.no_grad():
        for other in (vit, copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
            assert torch.equal(other(images), expected)
            assert not torch.equal(tome.remove(other)(images), expected)
            assert type(other) is timm.models.VisionTransformer


def two_blocks(vit):
    """Keep two blocks: what is compiled for one is compiled for all, and takes its time in each."""
    vit.blocks = vit.blocks[:2]
    return vit


def test_compiled_in_one_graph(vit, images):
    tome.apply(two_blocks(vit), r=9)
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), vit(images))
    compiled(images).sum().backward()
    assert vit.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_exported_with_a_dynamic_batch(vit, images):
    tome.apply(two_blocks(vit), r=9)
    program = torch.export.export(vit, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    bigger = torch.cat([images, images.flip(-1)[:1]])
    torch.testing.assert_close(program.module()(bigger), vit(bigger))


@pytest.mark.parametrize("dynamo", [False, True], ids=["tracing", "torch.export"])
@pytest.mark.filterwarnings("ignore")
def test_onnx(images, dynamo, tmp_path):
    """Many tokens merge into one, a sum that the tracing exporter loses for some operators. It keeps the batch size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SIZE | {"depth": 2}, class_token=False, global_pool="avg")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tome.apply(model.eval(), r=20)
    assert trace(model, images).sizes[-1].max() > 4
    names, path = {"input_names": ["x"], "output_names": ["y"]}, tmp_path / "model.onnx"
    if dynamo:
        shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
        torch.onnx.export(model, (images,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    else:
        torch.onnx.export(model, (images,), path, dynamo=False, dynamic_axes={"x": {0: "batch"}}, **names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (images.flip(0, -1), torch.cat([images, images[:1]])):
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0]), model(x))


def test_threads_do_not_disturb_one_another(vit, images, expected):
    tome.apply(vit, r=9)
    other = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        answers = {0: expected, 1: vit(other)}
    wrong = []

    def work(which):
        with torch.no_grad():
            right = [torch.allclose(vit((images, other)[which]), answers[which], atol=1e-6) for _ in range(20)]
        if not all(right):
            wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_checkpointed_gradients_equal_plain_ones(vit, images):
    tome.apply(vit, r=9)
    gradients = []
    for checkpointing in (False, True):
        vit.set_grad_checkpointing(checkpointing)
        vit.zero_grad()
        vit(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in vit.parameters()])
    for without, with_ in zip(*gradients, strict=True):
        torch.testing.assert_close(with_, without)


def test_gradients_are_those_of_the_function(images):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SIZE | {"embed_dim": 6, "num_heads": 2, "depth": 2}, in_chans=1)
    tome.apply(model.double().eval(), r=9)
    x = images[:1, :1, ::2, ::2].double()
    model.set_input_size((16, 16))
    assert torch.autograd.gradcheck(model, x.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(vit, images, expected, dtype):
    tome.apply(vit, r=2)
    with torch.no_grad():
        single = vit(images)
        with torch.autocast("cpu", dtype=dtype):
            traced = trace(vit, images)
        half = vit.to(dtype)(images.to(dtype))
    assert all(size.dtype == torch.float32 for size in traced.sizes)
    assert half.dtype == dtype
    scale = single.abs().max()
    assert (traced.output - single).abs().max() < 0.2 * scale  # some pairs may be matched differently
    assert (half - single).abs().max() < 0.2 * scale


@torch.no_grad()
def test_sizes_are_exact_in_half_precision():
    """bfloat16 counts up to 256 only, and these 576 patches end in 36 tokens."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SIZE | {"img_size": 96}).eval().bfloat16()
    for options in ({}, {"prop_attn": False}, {"unmerge": True}):
        tome.apply(model, r=300, **options)
        traced = trace(model, torch.rand(1, 3, 96, 96).bfloat16())
        assert [size.dtype for size in traced.sizes] == [torch.float32] * 4
        assert [size.sum().item() for size in traced.sizes] == [577] * 4
        assert traced.tokens == (289, 145, 73, 37)
        tome.remove(model)


def test_a_call_that_passes_the_blocks_twice_has_no_trace(vit, images):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit

        def forward(self, x):
            return self.vit(x) + self.vit(x.flip(-1))

    with pytest.raises(InputError, match="the call ran 8 merging blocks; each of the 4 must run once"):
        trace(tome.apply(Twice(), r=3), images)


def test_feature_maps_have_all_tokens_in_their_places(vit, images):
    with torch.no_grad():
        plain_maps = vit.forward_intermediates(images, intermediates_only=True)
        tome.apply(vit, r=9)
        traced = trace(vit, images)
        last, maps = vit.forward_intermediates(images, return_prefix_tokens=True)
        assert torch.equal(vit(images), traced.output)  # unchanged by the call above
        layers = vit.get_intermediate_layers(images, n=[1, 3], reshape=True)
        tome.apply(tome.remove(vit), r=9, unmerge=True)
    assert [m.shape for m, _ in maps] == [m.shape for m in plain_maps]
    assert last.shape == (2, 65, 48)
    for layer, block in zip(layers, (1, 3), strict=True):
        assert torch.equal(layer, maps[block][0])
    for (grid, prefix), groups in zip(maps, traced.groups, strict=True):
        flat = torch.cat([prefix, grid.flatten(2).mT], 1)
        for sample in range(2):
            for group in groups[sample].unique():
                members = flat[sample, groups[sample] == group]
                assert torch.equal(members, members[:1].expand_as(members))
            assert len(flat[sample].unique(dim=0)) == len(groups[sample].unique())


def test_unmerging_blocks_compute_the_same(vit, images, expected):
    tome.apply(vit, r=9, unmerge=True)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), expected)
        assert vit.forward_features(images).shape == (2, 65, 48)
        compiled = torch.compile(vit, fullgraph=True, backend="eager")
        maps = compiled.forward_intermediates(images, intermediates_only=True)
    assert maps[0].shape == (2, 48, 8, 8)


def test_features_only(images):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", **SIZE | {"depth": 2}, features_only=True, out_indices=[0, 1]
    ).eval()
    with torch.no_grad():
        before = model(images)
        tome.apply(model, r=9)
        during = model(images)
        after = tome.remove(model)(images)
        tome.apply(model, r=9)
        compiled = torch.compile(model, fullgraph=True, backend="eager")(images)
        tome.remove(model)
    assert [m.shape for m in during] == [m.shape for m in before]
    assert not torch.allclose(during[0], before[0])
    for a, b in zip(compiled, during, strict=True):
        torch.testing.assert_close(a, b)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_feature_maps_of_nested_blocks_have_all_tokens(vit):
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = vit.blocks

        def forward(self, x, scale=1):
            for layer in self.layers:
                x = layer(x)
            return x * scale

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.last = Encoder(), vit.blocks[0]

        def maps(self, x):
            return self.encoder(x, scale=2), self.last(x)

    tome.apply(vit, r=9)
    tokens = torch.rand(2, 65, 48)
    with torch.no_grad():
        assert [y.shape[1] for y in Model().maps(tokens)] == [29, 56]
        assert [y.shape[1] for y in Model.maps(UnmergingProxy(Model()), tokens)] == [65, 65]


@pytest.mark.parametrize("pool", ["avg", "map", "avgmax", "max"])
@torch.no_grad()
def test_poolings_of_patches_weigh_by_size(images, pool):
    """Poolings over unmerged tokens equal those over merged tokens that are repeated by size. This is the default."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SIZE, class_token=False, global_pool=pool).eval()
    tome.apply(model, r=9, unmerge=False)
    last = []
    hook = model.blocks[-1].register_forward_hook(lambda module, args, out: last.append(out))
    merged = model(images)
    hook.remove()
    tokens, size = model.norm(last[0]), blocks.state_of(last[0]).size
    repeated = [t.repeat_interleave(s.flatten().long(), 0)[None] for t, s in zip(tokens, size, strict=True)]
    expected = torch.cat([model.forward_head(t) for t in repeated])
    if pool != "max":
        assert not torch.allclose(merged, expected, atol=1e-4)
    for unmerge in (None, "last", True):
        tome.apply(tome.remove(model), r=9, unmerge=unmerge)
        torch.testing.assert_close(model(images), expected)
        assert trace(model, images).tokens == (55, 46, 37, 28)


def test_only_the_last_block_returns_all_tokens(vit, images, expected):
    tome.apply(vit, r=9, unmerge="last")
    counts = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, args, out: counts.append((args[0].shape[1], out.shape[1])))
    with torch.no_grad():
        torch.testing.assert_close(vit(images), expected)
        assert counts == [(65, 56), (56, 47), (47, 38), (38, 65)]
        tome.apply(tome.remove(vit), r=[0, 0, 0, 0], unmerge="last")
        vit(images)
    assert counts[4:] == [(65, 65)] * 4


@pytest.mark.parametrize(("pool", "last"), [("token", 29), ("", 29), ("avg", 65)])
def test_models_without_a_pooling_of_patches_keep_merged_tokens(pool, last, images):
    model = timm.create_model("vit_tiny_patch16_224", **SIZE, global_pool=pool).eval()
    with torch.no_grad():
        assert tome.apply(model, r=9).forward_features(images).shape[1] == last


def test_proportional_attention_by_channel_equals_that_by_mask(vit, images, expected):
    tome.apply(vit, r=9, prop_attn="channel")
    with torch.no_grad():
        torch.testing.assert_close(vit(images), expected)


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
def test_a_share_of_the_work_picks_the_schedule(vit, images, share):
    def flops(counts):
        dim, mlp = 48, 4 * 48
        around = itertools.pairwise([65, *counts])
        return sum(n * 4 * dim * dim + 2 * n * n * dim + m * 2 * dim * mlp for n, m in around)

    tome.apply(vit, flops=share)
    tokens = trace(vit, images).tokens
    assert flops(tokens) / flops([65] * 4) == pytest.approx(share, abs=0.02)
    assert tokens == trace(tome.apply(tome.remove(vit), share), images).tokens
    tome.apply(tome.remove(vit), tokens=share)
    assert (trace(vit, images).tokens[-1] - 1) / 64 == pytest.approx(share, abs=1 / 64)


def test_a_share_that_cannot_be_reached_is_said_once(vit, images):
    for options, said in (({"flops": 0.01}, "leaves flops=0.33$"), ({"tokens": 0.02}, "leaves tokens=0.062$")):
        tome.apply(vit, **options)
        with pytest.warns(UserWarning, match=f"cannot be reached with 65 tokens and 4 blocks: .*{said}") as caught:
            traced = trace(vit, images)
        assert traced.tokens == (33, 17, 9, 5)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            vit(images)
            tome.apply(tome.remove(vit), flops=0.4)
            vit(images)
        tome.remove(vit)


@pytest.mark.filterwarnings("ignore:r has 2 entries")
def test_the_schedule_can_be_asked_for(vit, images):
    for r, expected in ((9, (9,) * 4), ((8, -0.5), (12, 9, 6, 4)), ([1, 2], (1, 2, 0, 0)), (60, (60,) * 4)):
        assert tome.schedule_of(tome.apply(vit, r)) == expected
        merged = tuple(before - after for before, after in itertools.pairwise((65, *trace(vit, images).tokens)))
        assert tome.schedule_of(vit, images) == merged
        assert r == 60 or merged == expected
        tome.remove(vit)
    assert tome.schedule_of(tome.apply(vit, flops=0.5)) == Target(0.5, "flops")
    assert sum(tome.schedule_of(vit, images)) == 65 - trace(vit, images).tokens[-1] > 20
    with pytest.raises(InputError, match="Token Merging is not applied to this VisionTransformer"):
        tome.schedule_of(tome.remove(vit))


SETTINGS = [
    ({"r": 9}, {"r": 9, "prop_attn": True, "unmerge": False}),
    ({"r": (8, -0.5)}, {"r": [12, 9, 6, 4], "prop_attn": True, "unmerge": False}),
    ({"flops": 0.5, "prop_attn": "mask"}, {"flops": 0.5, "prop_attn": "mask", "unmerge": False}),
    ({"tokens": 0.6, "unmerge": "last"}, {"tokens": 0.6, "prop_attn": True, "unmerge": "last"}),
    (
        {"r": Target(0.5, "flops"), "prop_attn": False, "unmerge": True},
        {"flops": 0.5, "prop_attn": False, "unmerge": True},
    ),
]


@pytest.mark.parametrize(("given", "settings"), SETTINGS)
def test_settings_can_be_saved_and_applied_again(vit, images, given, settings):
    with torch.no_grad():
        expected = tome.apply(vit, **given)(images)
        saved = json.loads(json.dumps(tome.settings_of(vit)))
        assert saved == settings | {"positions": "destination"}
        assert torch.equal(tome.apply(tome.remove(vit), **saved)(images), expected)
    assert tome.settings_of(vit) == saved
    with pytest.raises(InputError, match="Token Merging is not applied"):
        tome.settings_of(tome.remove(vit))


def test_a_model_folder_holds_the_plain_model_and_this_is_said(tmp_path, caplog):
    model = plm_core.create_model("test_vit").eval()
    tome.apply(model, r=2)
    weights.save_pretrained(model, tmp_path, "mit")
    (line,) = caplog.messages
    assert line == (
        "the saved model is without the transform 'tome': after loading, plm_core.apply(model, 'tome', ...) with the "
        "same options applies it again"
    )
    again = plm_core.create_model(tmp_path, pretrained=True).eval()
    x = torch.rand(1, 3, 160, 160)
    assert torch.equal(plm_core.apply(again, "tome", **tome.settings_of(model))(x), model(x))
    caplog.clear()
    weights.save_pretrained(tome.remove(model), tmp_path, "mit")
    assert caplog.messages == []


def test_settings_of_two_models_in_one_are_told_if_they_are_the_same(vit):
    both = torch.nn.ModuleList([vit, copy.deepcopy(vit)])
    assert tome.settings_of(tome.apply(both, r=3))["r"] == 3
    tome.apply(tome.remove(both[1]), r=4)
    with pytest.raises(InputError, match="ModuleList holds 2 vision transformers with different settings"):
        tome.settings_of(both)


def test_a_list_that_is_too_short_merges_nothing_in_the_rest_and_says_so(vit):
    with pytest.warns(UserWarning, match="r has 3 entries for 4 blocks; the last 1 merge nothing") as caught:
        tome.apply(vit, r=[3, 1, 2])
    assert caught[0].filename == __file__
    assert tome.schedule_of(vit) == (3, 1, 2, 0)


def test_a_trace_follows_its_own_thread(vit, images):
    tome.apply(vit, r=9)
    others, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            vit(images)

    threads = [threading.Thread(target=work) for _ in range(2)]
    vit.blocks[2].register_forward_hook(lambda *call: others.append(threading.get_ident()))
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert trace(vit, images).tokens == (56, 47, 38, 29)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(set(others)) == 3  # the other threads did call the model


def test_a_share_of_the_work_compiles_without_a_warning(vit, images):
    tome.apply(two_blocks(vit), flops=0.8)
    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(vit, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), vit(images))


def test_as_a_transform_by_name(vit, images, expected):
    plm_core.apply(vit, "tome", r=9)
    with torch.no_grad():
        assert torch.equal(vit(images), expected)
    plm_core.remove(vit, "tome")
    assert not any(isinstance(block, blocks.Patched) for block in vit.blocks)


DOORS = {"tome": (tome.apply, tome.remove), "plm_core": (partial(plm_core.apply, name="tome"), plm_core.remove)}


@pytest.mark.parametrize("by", DOORS)
@pytest.mark.parametrize("undone_by", DOORS)
def test_what_one_door_applies_the_other_removes(vit, images, expected, by, undone_by):
    with torch.no_grad():
        plain = vit(images)
        for _ in range(2):
            DOORS[by][0](vit, r=9)
            with pytest.raises(InputError, match="'tome' is applied to this VisionTransformer already"):
                plm_core.apply(vit, "tome", r=3)
            assert torch.equal(copy.deepcopy(vit)(images), expected)
            assert torch.equal(DOORS[undone_by][1](vit)(images), plain)
        with tome.applied(plm_core.apply(vit, "tome", r=9), r=2):
            pass
        assert torch.equal(vit(images), expected)
        with tome.applied(plm_core.remove(vit, "tome"), r=2):
            pass
        assert torch.equal(plm_core.remove(vit)(images), plain)  # nothing is left to remove


def test_removed_from_a_part_of_the_model(vit, images):
    plain = vit(images)
    whole = plm_core.apply(torch.nn.Sequential(vit), "tome", r=9)
    tome.remove(vit)
    with pytest.raises(InputError, match="Token Merging is not applied to this Sequential"):
        plm_core.remove(whole)
    plm_core.remove(plm_core.apply(whole, "tome", r=9))
    assert torch.equal(whole(images), plain)


def test_applying_again_replaces_and_says_so(vit, images, expected):
    tome.apply(vit, r=3)
    with pytest.warns(UserWarning, match="already; the new settings replace the old") as caught:
        tome.apply(vit, r=9)
    assert caught[0].filename == __file__
    with torch.no_grad():
        assert torch.equal(vit(images), expected)
    tome.remove(vit)
    with pytest.raises(InputError, match="Token Merging is not applied to this VisionTransformer"):
        tome.remove(vit)


def test_a_with_block_removes_merging_even_after_an_error(vit):
    with pytest.raises(ZeroDivisionError), tome.applied(vit, r=2):
        raise ZeroDivisionError
    assert not any(isinstance(block, blocks.Patched) for block in vit.blocks)


def test_a_with_block_restores_earlier_settings(vit, images, expected):
    tome.apply(vit, r=9)
    with torch.no_grad():
        with tome.applied(vit, r=2, unmerge=True):
            assert trace(vit, images).tokens == (63, 61, 59, 57)
        assert torch.equal(vit(images), expected)
        assert vit.forward_intermediates(images, intermediates_only=True)[0].shape == (2, 48, 8, 8)
        with pytest.raises(InputError, match="r is '2'"), tome.applied(vit, r="2"):
            raise AssertionError
        assert torch.equal(vit(images), expected)
    tome.remove(vit)
    assert not any(isinstance(block, blocks.Patched) for block in vit.blocks)


def test_an_error_after_removing_inside_a_with_block_is_not_hidden(vit):
    def work():
        with tome.applied(vit, r=2):
            tome.remove(vit)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert not any(isinstance(block, blocks.Patched) for block in vit.blocks)


def test_nan_tokens_give_nan_logits(vit, images):
    tome.apply(vit, r=9)
    with torch.no_grad():
        answer = vit(images.index_fill(0, torch.tensor([1]), math.nan))
    assert answer.isnan().any(1).tolist() == [False, True]


def test_tokens_from_elsewhere_are_refused(vit):
    tome.apply(vit, r=9)
    with pytest.raises(InputError, match="block 2 did not get the tokens that block 1 returned"):
        vit.blocks[2](torch.rand(1, 65, 48))


BAD = {
    "nothing": ({}, "give one of r, flops and tokens, not none of them"),
    "two": ({"r": 3, "flops": 0.5}, "not r and flops"),
    "text": ({"r": "8"}, "r is '8'; it can be an integer"),
    "fraction": ({"r": 1.5}, "r is 1.5; it can be"),
    "negative": ({"r": -1}, "r is -1; it cannot be negative"),
    "inflection": ({"r": (8, 2)}, r"r=\(8, 2\): a tuple of two is \(r, inflection\)"),
    "entries": ({"r": [1, "2"]}, "a list has one integer for each block"),
    "share": ({"flops": 0}, "flops is 0; a share to leave is above 0"),
    "diffusion": ({"r": 3, "ratio": 0.5}, "ratio: only for diffusion models"),
    "truth": ({"r": 3, "unmerge": "yes"}, "unmerge is 'yes'; it is None, True, False or 'last'"),
    "how": ({"r": 3, "prop_attn": "best"}, "prop_attn is 'best'"),
    "place": ({"r": 3, "positions": "source"}, "positions is 'source'; it is 'destination' or 'mean'"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_change_nothing(vit, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tome.apply(vit, **options)
    assert "\n" not in str(caught.value)
    assert not any(isinstance(block, blocks.Patched) for block in vit.blocks)


def test_a_list_longer_than_the_model_is_used_up_to_its_depth(vit, images):
    message = "r has 6 entries for 4 blocks; the last 2 are ignored"
    with pytest.warns(UserWarning, match=message) as caught, tome.applied(vit, r=[1, -5, 2, 3, 9, 9]):
        pass
    with pytest.warns(UserWarning, match=message) as also:
        tome.apply(vit, r=[1, -5, 2, 3, 9, 9])
    assert caught[0].filename == also[0].filename == __file__
    assert trace(vit, images).tokens == (64, 64, 62, 59)


@pytest.mark.parametrize("call", [lambda x: tome.apply(x, 8), tome.remove, lambda x: tome.applied(x, 8).__enter__()])
def test_other_objects_than_models_are_refused(call):
    with pytest.raises(InputError, match=r"model is a str; it can be a torch.nn.Module or a pipeline of diffusers"):
        call("vit")


def test_compiled_blocks_are_refused(vit):
    vit.blocks[1] = torch.compile(vit.blocks[1])
    with pytest.raises(NotSupported, match=r"block blocks.1 is compiled already: apply transforms first, then compile"):
        tome.apply(vit, r=2)


def test_unsupported_models_are_refused_with_the_reason():
    with pytest.raises(NotSupported, match=r"Hiera: blocks.0 attends inside windows"):
        tome.apply(plm_core.create_model("hiera_micro_digits"), r=2)
    with pytest.raises(
        NotSupported,
        match=r"no block adapter for timm.models.resnet.ResNet.*models that have one: .*vit_tiny_patch16_224",
    ):
        tome.apply(timm.create_model("resnet10t"), r=2)
