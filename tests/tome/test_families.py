"""Token Merging on every family with a block adapter, also one that tome does not know, against a slow reference."""

import copy
import functools
import inspect
import pickle
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import tome
from plm_core import NotSupported, blocks, embed
from plm_core.adapters.transformers import example
from plm_core.blocks.examples import make, tensor_of
from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry

ADAPTERS = {entry.declaration.name: entry.declaration for entry in registry().all(BlockAdapter).values()}
WINDOWED = ("hiera", "timm-hiera", "timm-swin", "torchvision-swin", "transformers-hiera", "transformers-swin")
FAMILIES = sorted(set(ADAPTERS) - set(WINDOWED))
MAPS = ("gazelle", "plm")
"""Families that only ask for maps of all patches, so that no block shows the merged tokens."""


def test_a_refusal_names_families_that_work():
    with pytest.raises(NotSupported) as refusal:
        tome.apply(nn.Linear(1, 1), r=2)
    named = str(refusal.value).rpartition(": ")[2].split(", ")
    working = {a.example[1].get("model", a.example[0]) for name, a in ADAPTERS.items() if name in FAMILIES}
    assert "vit_tiny_patch16_224" in named
    assert set(named) <= working


VIT = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
VARIANTS = {
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 0.1}),
    "query and key norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "attention and mlp norm": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}),
    "average pooling": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "attention pooling": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "map"}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "DeiT-3": ("deit3_small_patch16_224", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "DINOv3": ("vit_small_patch16_dinov3", {}),
    "EVA-02": ("eva02_tiny_patch14_224", {}),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", {}),
    "spatial Perception Encoder": ("vit_pe_spatial_tiny_patch16_512", {}),
    "rotary, of each head and block": ("vit_small_patch16_rope_mixed_224", {}),
    "BEiT v2": ("beitv2_base_patch16_224", {}),
}


@functools.cache
def make_model(name, depth=3):
    """Return a model in float64, with parameters large enough to reveal mistakes, and a batch of three for it.

    The depth is that of a variant; the examples of block adapters have their own.
    """
    if name.startswith("open_clip"):
        pytest.importorskip("open_clip")
    if name in ADAPTERS:
        model, x = make(ADAPTERS[name])
        x = torch.cat([x, x[:1].flip(-1)])
    else:
        base, options = VARIANTS[name]
        torch.manual_seed(0)
        model, x = timm.create_model(base, **{**VIT, **options, "depth": depth}).eval(), torch.rand(3, 3, 32, 32)
    g = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15, generator=g)
    return model.double(), x.double()


# --- a slow reference: one sample at a time, in loops; a token of size s is s tokens in attention ----------------


def merged(pairs, r):
    """Return the r most similar (similarity, a, b), and the a of the others, the most similar first."""
    ranked = sorted(pairs, reverse=True)
    return ranked[:r], [a for _, a, _ in ranked[r:]]


def match(keys, r, prefix):
    """Return groups of tokens as lists of places, in the order of the output. The first place is the destination."""
    count = len(keys)
    r = min(r, (count - prefix) // 2)
    if r <= 0:
        return [[i] for i in range(count)]
    unit = keys / keys.norm(dim=-1, keepdim=True)
    even = [i for i in range(0, count, 2) if i >= prefix]
    odd = [i for i in range(1, count, 2) if i >= prefix]
    pairs = [max((float(unit[a] @ unit[b]), a, b) for b in odd) for a in even]
    pairs_to_merge, left = merged(pairs, r)
    if prefix:
        left.sort()
    return (
        [[i] for i in range(prefix)]
        + [[a] for a in left]
        + [[b, *(a for _, a, to in pairs_to_merge if to == b)] for b in odd]
    )


def attention(q, k, v, sizes, bias):
    """Attend in one sample, with s copies of each key of size s."""
    times = torch.tensor(sizes).round().long()
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias.expand(*logits.shape[:-1], len(sizes)).repeat_interleave(times, -1)
    return logits.softmax(-1) @ v


def pieces_at_mean_positions(view, normed, context, members, prefix):
    """Return q, k, v and the keys without rotation: q and k are means over those at the place of each member."""
    count = normed.shape[1]
    places = range(prefix, sum(map(len, members)))
    kept = torch.tensor([[*range(prefix), *[place] * (count - prefix)] for place in places])
    selected = view.select(context, kept)  # every token at each of the places
    q, k, v = view.qkv(normed.expand(len(places), -1, -1), **selected)
    plain = view.unrotate(k, **selected)[0]
    q, k = (
        torch.stack([t[[max(m - prefix, 0) for m in group], :, i].mean(0) for i, group in enumerate(members)], 1)[None]
        for t in (q, k)
    )
    return q, k, v[:1], plain


def reference(model_view, calls, r, prop_attn=True, positions="destination"):
    """Return the tokens and sizes after the last block for each sample.

    Args:
        model_view: A ModelView in float64.
        calls: The input x and the other arguments of each block's forward; only the first x is used.
        r: Tokens to merge away in every block.
        prop_attn: Whether sizes count in attention.
        positions: The rotary position of merged tokens.
    """
    x0, _ = calls[0]
    answers = []
    for sample in range(len(x0)):
        x, sizes, places = x0[sample : sample + 1], [1.0] * x0.shape[1], list(range(x0.shape[1]))
        members = [[i] for i in places]
        for view, (_, context) in zip(model_view.blocks, calls, strict=True):
            # the context is either shared by all samples or has the batch first
            mine = {k: v[sample : sample + 1] if of_batch(v, x0) else v for k, v in context.items()}
            normed = view.normalize(x)
            if positions == "mean":
                q, k, v, plain = pieces_at_mean_positions(view, normed, mine, members, model_view.tokens.prefix)
            else:
                mine = view.select(mine, torch.tensor([places])) if len(places) < x0.shape[1] else mine
                q, k, v = view.qkv(normed, **mine)
                plain = view.unrotate(k, **mine)[0]
            bias = view.bias(**mine)
            y = attention(
                q[0], k[0], v[0], sizes if prop_attn else [1.0] * len(sizes), None if bias is None else bias[0]
            )
            x = view.residual(x, normed) + view.proj(y[None], normed)
            groups = match(plain.mean(0), r, model_view.tokens.prefix)
            x, sizes, places, members = (
                torch.stack([sum(sizes[i] * x[0, i] for i in g) / sum(sizes[i] for i in g) for g in groups])[None],
                [sum(sizes[i] for i in g) for g in groups],
                [places[g[0]] for g in groups],
                [[m for i in g for m in members[i]] for g in groups],
            )
            x = view.mlp_residual(x)
        answers.append((x[0], sizes))
    return torch.stack([x for x, _ in answers]), torch.tensor([sizes for _, sizes in answers])


def of_batch(value, x):
    """Return whether a value of the context differs by sample: tables of each head have three dimensions at most."""
    return isinstance(value, torch.Tensor) and value.ndim > 3 and value.shape[0] == len(x)


def record(model, inputs):
    """Return the view of a model, and the arguments of each block's forward in an unpatched run."""
    (model_view,) = blocks.find(model).values()
    calls = []

    def listen(block, args, context):
        names = list(inspect.signature(type(block).forward).parameters)[2:]  # without self and x
        calls.append((args[0], dict(zip(names, args[1:], strict=False)) | context))

    hooks = [view.block.register_forward_pre_hook(listen, with_kwargs=True) for view in model_view.blocks]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return model_view, calls


# --- the families ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
@torch.no_grad()
def test_without_merging_nothing_changes(name):
    model, x = copy.deepcopy(make_model(name))
    before = tensor_of(model(x))
    tome.apply(model, r=0)
    torch.testing.assert_close(tensor_of(model(x)), before, atol=1e-5, rtol=0)
    tome.remove(model)
    assert torch.equal(tensor_of(model(x)), before)


@pytest.mark.parametrize("prop_attn", [True, False], ids=["proportional", "plain"])
@pytest.mark.parametrize("name", [*(name for name in FAMILIES if name not in MAPS), *VARIANTS])
@torch.no_grad()
def test_merging_equals_the_slow_reference(name, prop_attn):
    model, x = copy.deepcopy(make_model(name))
    before = tensor_of(model(x))
    model_view, calls = record(model, x)
    tokens, sizes = reference(model_view, calls, r=11, prop_attn=prop_attn)
    tome.apply(model, r=11, prop_attn=prop_attn, unmerge=False)
    last = []
    hook = model_view.blocks[-1].block.register_forward_hook(lambda module, args, out: last.append(out))
    during = tensor_of(model(x))
    hook.remove()
    torch.testing.assert_close(last[0], tokens, atol=1e-9, rtol=1e-9)
    assert torch.equal(blocks.state_of(last[0]).size.squeeze(-1), sizes)
    assert during.isfinite().all()
    assert not torch.allclose(during, before)
    if during.shape == before.shape:
        tome.apply(tome.remove(model), r=11, prop_attn=prop_attn, unmerge=True)
        assert tensor_of(model(x)).shape == before.shape
    tome.remove(model)
    assert torch.equal(tensor_of(model(x)), before)


ROTARY = ["timm-eva", "DINOv3", "EVA-02", "rotary, of each head and block", "transformers-dinov3"]


@pytest.mark.parametrize("name", ROTARY)
@torch.no_grad()
def test_mean_positions_equal_the_slow_reference(name):
    model, x = copy.deepcopy(make_model(name))
    before = tensor_of(model(x))
    model_view, calls = record(model, x)
    tokens, sizes = reference(model_view, calls, r=11, positions="mean")
    last = []
    hook = model_view.blocks[-1].block.register_forward_hook(lambda module, args, out: last.append(out))
    for unmerge in (False, True):
        tome.apply(model, r=11, positions="mean", unmerge=unmerge)
        model(x)
        if unmerge:  # every token has the value of its group
            group = blocks.state_of(last[-1]).group
            tokens = tokens.take_along_dim(group[..., None], 1)
        else:
            assert torch.equal(blocks.state_of(last[-1]).size.squeeze(-1), sizes)
        torch.testing.assert_close(last[-1], tokens, atol=1e-9, rtol=1e-9)
        tome.remove(model)
    tome.apply(model, r=11, unmerge=False)
    model(x)
    hook.remove()
    assert (last[-1][:, -1] - last[0][:, -1]).abs().max() > 1e-6  # the option makes a difference
    tome.apply(tome.remove(model), r=0, positions="mean")
    torch.testing.assert_close(tensor_of(model(x)), before, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ["EVA-02", "transformers-dinov3"])
def test_mean_positions_copy_pickle_and_train(name):
    model, x = copy.deepcopy(make_model(name))
    tome.apply(model, r=7, positions="mean")
    expected = tensor_of(model(x))
    assert tome.settings_of(model)["positions"] == "mean"
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(tensor_of(other(x)), expected)
    expected.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("registers", r"changes nothing here: VisionTransformer adds positions to the tokens before its blocks"),
        ("BEiT v2", r"is for rotary positions; Beit has relative position biases"),
    ],
)
def test_mean_positions_are_refused_where_nothing_rotates(name, reason):
    model, _ = make_model(name)
    with pytest.raises(NotSupported, match=reason):
        tome.apply(model, r=3, positions="mean")
    assert not any(isinstance(module, blocks.Patched) for module in model.modules())


def test_mean_positions_need_a_view_that_averages(monkeypatch):
    model, _ = make_model("DINOv3")
    honest = blocks.find(model)
    without = [replace(view, average=None) for view in honest[""].blocks]
    monkeypatch.setattr(blocks, "find", lambda model: {"": replace(honest[""], blocks=tuple(without))})
    with pytest.raises(NotSupported, match="positions='mean': the block adapter of Eva cannot average positions"):
        tome.apply(model, r=3, positions="mean")


@torch.no_grad()
def test_mean_positions_work_beside_a_model_without_rotations():
    rotary, x = copy.deepcopy(make_model("DINOv3"))
    expected = tome.apply(rotary, r=7, positions="mean")(x)
    plain, _ = copy.deepcopy(make_model("registers"))
    both = nn.ModuleList([tome.remove(rotary), plain])
    plain_merged = tome.apply(plain, r=7)(x)
    tome.apply(both if tome.remove(plain) is plain else None, r=7, positions="mean")
    assert torch.equal(both[0](x), expected)
    assert torch.equal(both[1](x), plain_merged)


POOLS_PATCHES = {
    *("average pooling", "attention pooling", "DINOv3", "EVA-02", "BEiT v2", "timm-beit", "timm-eva"),
    *("Perception Encoder", "spatial Perception Encoder", "pe"),
    *("transformers-siglip", "transformers-dinov2", "transformers-dinov2-registers", "transformers-videomae"),
}


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
@torch.no_grad()
def test_families_that_pool_their_patches_count_each_patch_once(name):
    model, x = copy.deepcopy(make_model(name))
    merged = embed(tome.apply(model, r=11, unmerge=False), x)
    default = embed(tome.apply(tome.remove(model), r=11), x)
    once = embed(tome.apply(tome.remove(model), r=11, unmerge=True), x)
    torch.testing.assert_close(default, once, atol=1e-9, rtol=1e-9)
    assert torch.allclose(merged, once) == (name not in POOLS_PATCHES)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm-eva", {"positions": "mean"}),
        *((name, {}) for name in ("transformers-dinov2", "torchvision-vit")),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("DINOv3", "BEiT v2")),
    ],
)
def test_families_compile_in_one_graph(name, options):
    if name.startswith("transformers-"):
        exports = torch.compile(lambda x: x + int(torch.compiler.is_exporting()), fullgraph=True, backend="eager")
        if exports(torch.zeros(1)):
            pytest.skip("the compiler of torch 2.9 says that it exports; then transformers passes a mask of all tokens")
    model, x = copy.deepcopy(make_model(name, depth=2))
    tome.apply(model, r=7, **options)
    with torch.no_grad():
        expected = tensor_of(model(x))
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(tensor_of(compiled(x)), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm-eva", {}),
        ("transformers-dinov3", {"positions": "mean"}),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("torchvision-vit", "timm-beit")),
    ],
)
@torch.no_grad()
def test_families_export_with_a_dynamic_batch(name, options):
    model, x = copy.deepcopy(make_model(name))
    tome.apply(model, r=7, **options)
    program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    torch.testing.assert_close(tensor_of(program(x)), tensor_of(model(x)))


@torch.no_grad()
def test_attention_weights_are_refused():
    model, x = copy.deepcopy(make_model("transformers-vit"))
    model.set_attn_implementation("eager")
    assert len(model(x, output_attentions=True).attentions) == 2
    tome.apply(model, r=7)
    with pytest.raises(NotSupported, match="output_attentions: a block that a transform has patched computes no"):
        model(x, output_attentions=True)


TINY = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize("name", ["Dinov2Backbone", "Dinov2WithRegistersBackbone", "DINOv3ViTBackbone"])
@torch.no_grad()
def test_backbones_return_maps_of_all_patches(name):
    torch.manual_seed(0)
    model, x = example(name, **TINY, out_features=["stage1", "stage3"]).eval(), torch.rand(2, 3, 32, 32)
    assert embed(model, x).shape == (2, 48)
    before = model(x).feature_maps
    tome.apply(model, r=4)
    during = model(x).feature_maps
    assert [m.shape for m in during] == [m.shape for m in before] == [(2, 48, 4, 4)] * 2
    for maps, patches in zip(during, (12, 4), strict=True):
        assert [len(m.flatten(1).mT.unique(dim=0)) for m in maps] == [patches] * 2
    tome.remove(model)
    assert all(map(torch.equal, model(x).feature_maps, before))


@torch.no_grad()
def test_language_models_with_a_place_for_each_patch_need_unmerge():
    import transformers

    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(**TINY, intermediate_size=96)
    text = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=7)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    inputs = {"input_ids": torch.tensor([[1, *[7] * 16, 3]]), "pixel_values": torch.rand(1, 3, 32, 32)}
    before = model(**inputs).logits
    with pytest.raises(NotSupported, match=r"Llava\w+ has a place in its text for each patch.*with unmerge=True"):
        tome.apply(model, r=4)
    assert torch.equal(model(**inputs).logits, before)
    during = tome.apply(model, r=4, unmerge=True)(**inputs).logits
    assert during.shape == before.shape
    assert not torch.equal(during, before)


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_refused_with_the_reason(name):
    model, x = make(ADAPTERS[name])
    with torch.no_grad():
        before = tensor_of(model(x))
        with pytest.raises(NotSupported, match=r"window|pool"):
            tome.apply(model, r=2)
        assert torch.equal(tensor_of(model(x)), before)


THROWAWAY = """
from functools import partial
import torch
from torch import nn
from plm_core import blocks, hookimpl
from plm_core.hookspecs import BlockAdapter

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return (x + self.out(((q @ k.mT * 8**-0.5).softmax(-1) @ v)[:, 0])).tanh()

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.mean(1)

def _layer(layer, name):
    return blocks.BlockView(
        block=layer, name=name, num_heads=1, normalize=lambda x: x,
        qkv=lambda normed: layer.qkv(normed)[:, None].chunk(3, -1),
        proj=lambda attended, normed: layer.out(attended[:, 0]), residual=lambda x, normed: x, mlp_residual=torch.tanh,
        view_of=partial(_layer, name=name),
    )

def view(model):
    layers = tuple(_layer(layer, f"layers.{i}") for i, layer in enumerate(model.layers))
    return blocks.ModelView(model, layers, blocks.Tokens())

@hookimpl
def plm_block_adapters():
    path = "throwaway_family:Model"
    return [BlockAdapter(name="throwaway", models=(path,), view="throwaway_family:view", example=(path, {}))]
"""
DISTRIBUTION = {
    "name": "throwaway",
    "modules": {"throwaway_family.py": THROWAWAY},
    "entry_points": {"throwaway": "throwaway_family"},
}


@torch.no_grad()
def test_any_family_with_an_adapter_is_covered(plm_registry):
    plm_registry(DISTRIBUTION)
    torch.manual_seed(0)
    import throwaway_family

    model, x = throwaway_family.Model().double(), torch.rand(3, 14, 8).double()
    model_view, calls = record(model, x)
    tokens, _ = reference(model_view, calls, r=3)
    tome.apply(model, r=3)
    torch.testing.assert_close(model(x), tokens.mean(1))
