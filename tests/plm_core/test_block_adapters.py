"""Block adapters for timm, torchvision and transformers: pieces make up the blocks and follow the kept tokens."""

import copy
import inspect
import sys
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaBlockPostNorm
from torch import nn

from plm_core import MissingDependency, NotSupported, blocks
from plm_core.adapters import timm as timm_adapters
from plm_core.adapters import transformers as transformers_adapters
from plm_core.adapters.common import averaged_rows, inverse, kept_rows, rotate
from plm_core.blocks import examples
from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry
from plm_core.testing import check_blocks
from plm_core.tools import matrix
from plm_core.utils.references import resolve

ADAPTERS = {entry.declaration.name: entry.declaration for entry in registry().all(BlockAdapter).values()}
WINDOWED = sorted(name for name, adapter in ADAPTERS.items() if adapter.view.startswith("plm_core.adapters.windowed"))
GLOBAL = sorted(name for name in ADAPTERS if name.startswith(("timm", "torch", "transf")) and name not in WINDOWED)
SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
HF = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def shaken(model):
    """Randomise the parameters, so that a scale, a norm or a bias that is left out would show."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def timm_model(name, **options):
    return shaken(timm.create_model(name, **SIZE | options))


def hf_model(name, **options):
    return shaken(transformers_adapters.example(name, **HF | options))


def only(model):
    (view,) = blocks.find(model).values()
    return view


def call_of(model, x, index=1):
    """Run a model and return the view of one block, with its tokens, context and output in this run."""
    view, calls = only(model).blocks[index], []
    arguments = tuple(inspect.signature(type(view.block).forward).parameters)[2:]
    hook = view.block.register_forward_hook(
        lambda _, args, context, y: calls.append((args[0], context | dict(zip(arguments, args[1:], strict=False)), y)),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return view, *calls[0]


# --- declarations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_adapters_name_existing_objects(name):
    if name.startswith("open_clip"):
        pytest.importorskip("open_clip")
    for reference in filter(None, (*ADAPTERS[name].models, ADAPTERS[name].view, ADAPTERS[name].embed)):
        assert callable(resolve(reference))


@pytest.mark.parametrize("name", GLOBAL)
def test_examples_are_tiny_and_pass_the_check(name):
    model, x = examples.make(ADAPTERS[name])
    with torch.no_grad():
        answer = examples.tensor_of(model(x))
        assert answer.isfinite().all()
        again, same_x = examples.make(ADAPTERS[name])
        assert torch.equal(examples.tensor_of(again(same_x)), answer)
    assert sum(p.numel() for p in model.parameters()) < 200_000
    assert not torch.equal(answer[0], answer[1])  # no layer is left at zero
    check_blocks(shaken(model), x)


@pytest.mark.parametrize("name", WINDOWED)
def test_windowed_families_are_refused_with_the_reason(name):
    model, x = examples.make(ADAPTERS[name])
    assert examples.tensor_of(model(x)).isfinite().all()
    with pytest.raises(NotSupported, match="windowed attention"):
        blocks.find(model)


PREFIX = {
    "timm-beit": blocks.Tokens(1, positions="bias"),
    "timm-eva": blocks.Tokens(1, positions="rotary"),
    "timm-vit": blocks.Tokens(1),
    "torchvision-vit": blocks.Tokens(1),
    "transformers-ast": blocks.Tokens(1, 1),
    "transformers-clip": blocks.Tokens(1),
    "transformers-deit": blocks.Tokens(1, 1),
    "transformers-dinov2": blocks.Tokens(1),
    "transformers-dinov2-registers": blocks.Tokens(1, 0, 4),
    "transformers-dinov3": blocks.Tokens(1, 0, 4, "rotary"),
    "transformers-siglip": blocks.Tokens(),
    "transformers-videomae": blocks.Tokens(),
    "transformers-vit": blocks.Tokens(1),
    "transformers-vivit": blocks.Tokens(1),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_special_tokens_and_positions(name):
    model, x = examples.make(ADAPTERS[name])
    assert only(model).tokens == PREFIX[name]
    assert call_of(model, x)[1].shape[1] == PREFIX[name].prefix + 64


# --- timm -------------------------------------------------------------------------------------------------------

TIMM = {
    "DeiT-3": ("deit3_small_patch16_224", {}),
    "DINOv2": ("vit_small_patch14_dinov2", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "DINOv2, SwiGLU": ("vit_giant_patch14_reg4_dinov2", {}),
    "CLIP": ("vit_base_patch16_clip_224", {}),
    "CLIP, quick GELU": ("vit_base_patch16_clip_quickgelu_224", {}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "EVA": ("eva_giant_patch14_224", {}),
    "EVA-02": ("eva02_tiny_patch14_224", {}),
    "EVA-02, split projections": ("eva02_base_patch14_224", {}),
    "EVA-02, post-norm": ("eva02_enormous_patch14_clip_224", {}),
    "EVA-02 CLIP": ("eva02_base_patch16_clip_224", {}),
    "PE core": ("vit_pe_core_small_patch16_384", {}),
    "PE lang": ("vit_pe_lang_large_patch14_448", {}),
    "PE spatial": ("vit_pe_spatial_tiny_patch16_512", {}),
    "DINOv3": ("vit_small_patch16_dinov3", {}),
    "DINOv3, qkv bias": ("vit_small_patch16_dinov3_qkvb", {}),
    "DINOv3, gated MLP": ("vit_small_plus_patch16_dinov3", {}),
    "rotary": ("vit_small_patch16_rope_224", {}),
    "rotary, of each head and block": ("vit_small_patch16_rope_mixed_224", {}),
    "rotary and absolute": ("vit_small_patch16_rope_ape_224", {}),
    "rotary, attention of timm.layers": ("eva02_tiny_patch14_224", {"attn_type": "rope"}),
    "rotary, split projections": ("eva02_base_patch14_224", {"attn_type": "rope"}),
    "rotary, post-norm": ("eva02_tiny_patch14_224", {"use_post_norm": True}),
    "fewer heads for keys": ("eva02_base_patch14_224", {"attn_type": "rope", "num_kv_heads": 1}),
    "multimodal rotary": ("eva02_tiny_patch14_224", {"rope_type": "mrope", "rope_mrope_section": (2, 3, 3)}),
    "layer scale of the attention only": ("eva02_tiny_patch14_224", {"init_values": 1, "attn_only_layer_scale": True}),
    "query and key norm": ("eva02_tiny_patch14_224", {"qk_norm": True, "scale_attn_inner": True}),
    "rotary, no special token": ("eva02_tiny_patch14_224", {"class_token": False}),
    "rotary, registers": ("eva02_tiny_patch14_224", {"num_reg_tokens": 2}),
    "BEiT": ("beit_base_patch16_224", {}),
    "BEiT v2": ("beitv2_base_patch16_224", {}),
    "BEiT, shared bias": ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}),
    "BEiT, both biases": ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}),
    "BEiT, no bias": ("beit_base_patch16_224", {"use_rel_pos_bias": False}),
    "BEiT, no scale, no qkv bias": ("beit_base_patch16_224", {"init_values": 0.0, "qkv_bias": False}),
    "BEiT, SwiGLU": ("beit_base_patch16_224", {"swiglu_mlp": True, "scale_mlp": True}),
}


@pytest.mark.parametrize(("name", "options"), TIMM.values(), ids=TIMM)
def test_timm_adapters(name, options):
    model = timm_model(name, **options)
    check_blocks(model, IMAGE)
    assert only(model).tokens.prefix == model.num_prefix_tokens


def test_the_variants_are_what_they_are_called():
    def block(variant):
        name, options = TIMM[variant]
        return timm_model(name, **options).blocks[0]

    assert type(block("EVA-02, post-norm")) is type(block("rotary, post-norm")) is EvaBlockPostNorm
    assert block("EVA-02, split projections").attn.qkv is None
    assert block("EVA").attn.q_bias is not None
    assert block("DINOv3").attn.rotate_half
    assert not block("PE core").attn.rotate_half
    assert type(block("rotary, attention of timm.layers").attn) is AttentionRope
    assert block("fewer heads for keys").attn.num_kv_groups == 3
    assert not isinstance(block("query and key norm").attn.norm, nn.Identity)
    assert not isinstance(block("EVA-02, split projections").mlp.norm, nn.Identity)
    assert block("BEiT, no scale, no qkv bias").gamma_1 is None


def test_gated_attention_of_timm():
    model = timm_model("vit_tiny_patch16_224")
    for block in model.blocks:
        block.attn = Attention(48, 3, qkv_bias=True, gated=True, scale_norm=True, norm_layer=nn.LayerNorm)
    check_blocks(shaken(model), IMAGE)


def test_gated_rotary_attention_of_timm():
    model = timm_model("eva02_tiny_patch14_224")
    for block in model.blocks:
        block.attn = AttentionRope(48, 3, gated=True)
    check_blocks(shaken(model), IMAGE)


@pytest.mark.parametrize("kind", ["ResPostBlock", "ParallelScalingBlock", "ParallelThingsBlock"])
def test_other_blocks_of_timm_are_refused(kind):
    block = getattr(timm.models.vision_transformer, kind)
    model = timm.create_model("vit_tiny_patch16_224", **SIZE, block_fn=block)
    with pytest.raises(NotSupported, match=rf"{kind} with .* have no view yet; timm's Block with Attention has"):
        blocks.find(model)


def test_other_attention_of_timm_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", **SIZE | {"num_heads": 2}, attn_layer="diff")
    with pytest.raises(NotSupported, match=r"Block with attention timm\.layers\.\w+\.DiffAttention have no view yet"):
        blocks.find(model)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *(("transformers-vit", path) for path in ("layers.1", "layers.1.attention")),
        ("transformers-siglip", "encoder.layers.0.self_attn"),
        ("transformers-videomae", "encoder.layer.0.attention.attention"),
    ],
)
def test_other_layers_and_attentions_of_transformers_are_refused(name, path):
    """Their forward computes something else, which a view would leave out without a word."""
    model, x = examples.make(ADAPTERS[name])
    inner = next(m for m in model.modules() if any(n == path for n, _ in m.named_modules()))
    part = inner.get_submodule(path)
    part.__class__ = type(type(part).__name__, (Doubled, type(part)), {})
    with pytest.raises(NotSupported, match="have no view yet; transformers' own layer with its own attention has one"):
        blocks.find(model)
    part.__class__ = type(part).__bases__[1]
    check_blocks(model, x)


class Doubled:
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out


# --- positions of the kept tokens -------------------------------------------------------------------------------

ROTARY = ["rotary", "rotary, of each head and block", "DINOv3", "PE core", "fewer heads for keys", "rotary, registers"]
KEPT = torch.tensor([[0, 2, 3, 7, 12, 16], [0, 1, 4, 9, 10, 15]])  # among a class token and 16 patches


@pytest.mark.parametrize("variant", ROTARY)
def test_timm_takes_the_rotations_that_are_selected(variant):
    name, options = TIMM[variant]
    model = timm_model(name, **options)
    view, x, context, y = call_of(model, IMAGE)
    prefix = model.num_prefix_tokens
    some = torch.cat([torch.arange(prefix).expand(2, -1), KEPT[:, 1:] + prefix - 1], 1)
    for kept in (some, torch.arange(x.shape[1]).expand(2, -1)):
        selected = view.select(context, kept)
        num_heads = view.num_heads if variant == "rotary, of each head and block" else 1
        assert selected["rope"].shape == (2, num_heads, kept.shape[1] - prefix, 2 * 16)
        few = x.take_along_dim(kept[:, :, None], 1)
        own = view.block(few, **selected)
        torch.testing.assert_close(blocks.run_block(view, few, **selected), own)
    torch.testing.assert_close(own, y)  # the last selection is all tokens
    assert context["rope"] is not selected["rope"]  # the model's own table is unchanged


def test_rotations_follow_the_patches_after_timm_dropped_some():
    for name in ("eva02_tiny_patch14_224", "vit_small_patch16_rope_mixed_224"):
        model = timm_model(name, patch_drop_rate=0.5)
        model.patch_drop.train()
        assert call_of(model, IMAGE)[2]["rope"].ndim == 4
        check_blocks(model, IMAGE)


@pytest.mark.parametrize("table", [(16, 8), (3, 16, 8), (2, 1, 16, 8), (2, 3, 16, 8)], ids=str)
def test_rows_of_a_table(table):
    table = torch.rand(table)
    full = table.expand(2, 3, 16, 8)
    by_hand = torch.stack([full[b][:, KEPT[b, 1:] - 1] for b in range(2)])
    few = kept_rows(table, KEPT, prefix=1)
    assert torch.equal(few.expand(2, 3, 5, 8), by_hand)


@pytest.mark.parametrize("variant", [*ROTARY, "rotary, attention of timm.layers", "multimodal rotary"])
def test_keys_without_their_rotation(variant):
    name, options = TIMM[variant]
    view, x, context, _ = call_of(timm_model(name, **options), IMAGE)
    normed = view.normalize(x)
    key = view.qkv(normed, **context)[1]
    plain = view.qkv(normed, **{**context, "rope": None})[1]
    assert not torch.allclose(key, plain, atol=1e-2)
    torch.testing.assert_close(view.unrotate(key, **context), plain)


def test_keys_without_their_rotation_in_transformers():
    model = hf_model("DINOv3ViTModel", num_register_tokens=2)
    view, x, context, _ = call_of(model, IMAGE)
    normed = view.normalize(x)
    key, plain = (view.qkv(normed, **c)[1] for c in (context, {}))
    assert not torch.allclose(key, plain, atol=1e-2)
    torch.testing.assert_close(view.unrotate(key, **context), plain)


AVERAGED = [*ROTARY, "rotary, attention of timm.layers", "transformers"]


@pytest.mark.parametrize("variant", AVERAGED)
def test_averaged_rotations(variant):
    """A key at the mean of several places is the mean of that key at each of them, and can be taken back."""
    name, options = TIMM.get(variant, ("", {}))
    view, x, context, _ = call_of(timm_model(name, **options) if name else hf_model("DINOv3ViTModel"), IMAGE)
    prefix = x.shape[1] - 16
    patches = torch.tensor([[0, 1, 1, 0, 2, 2, 2, 2, 3, 3, 0, 4, 3, 5, 5, 4], [5, 4, 3, 2, 1, 0] * 2 + [0] * 4])
    group = torch.cat([torch.arange(prefix).expand(2, -1), prefix + patches], 1)
    size = torch.stack([row.bincount()[:, None] for row in group])
    averaged = view.average(context, group, size)
    few = view.normalize(x[:, : prefix + 6])
    q, k, v = view.qkv(few, **averaged)
    for b in range(2):
        for token in range(prefix + 6):
            members = (group[b] == token).nonzero().flatten().tolist()
            places = [[*range(prefix), *[max(m, prefix)] * 6] for m in members]
            at_each = [view.qkv(few[b : b + 1], **view.select(context, torch.tensor([p]))) for p in places]
            for ours, which in ((q, 0), (k, 1), (v, 2)):
                by_hand = torch.stack([pieces[which][0, :, token] for pieces in at_each]).mean(0)
                torch.testing.assert_close(ours[b, :, token], by_hand)
    first = view.select(context, torch.arange(prefix + 6).expand(2, -1))
    plain = view.unrotate(view.qkv(few, **first)[1], **first)
    torch.testing.assert_close(view.unrotate(k, **averaged), plain, atol=1e-4, rtol=1e-4)


def test_places_that_cancel_leave_a_finite_key():
    table = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, -1.0, -1.0, 0.0]])  # sines, then cosines
    mean = averaged_rows(table, torch.tensor([[0, 1, 1]]), torch.tensor([[[1.0], [2.0]]]), prefix=1)
    assert torch.equal(mean, torch.zeros(1, 1, 1, 4))
    key = torch.rand(1, 1, 1, 2)
    assert torch.equal(rotate(rotate(key, mean, half=True), inverse(mean, averaged=True), half=True), 0 * key)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype):
    table = torch.rand(300, 8).to(dtype)
    mean = averaged_rows(table, torch.zeros(1, 300, dtype=torch.long), torch.full((1, 1, 1), 300.0), prefix=0)
    assert mean.dtype == dtype
    assert torch.equal(mean[0, 0, 0], table.float().mean(0).to(dtype))


def test_masks_are_refused_when_places_are_averaged():
    view, _, context, _ = call_of(timm_model("eva02_tiny_patch14_224"), IMAGE)
    group, size = torch.arange(17).expand(2, -1), torch.ones(2, 17, 1)
    with pytest.raises(NotSupported, match="attention with attn_mask cannot be restricted"):
        view.average({**context, "attn_mask": torch.zeros(17, 17)}, group, size)
    view, _, context, _ = call_of(hf_model("DINOv3ViTModel", num_register_tokens=0), IMAGE)
    with pytest.raises(NotSupported, match="attention with attention_mask cannot be restricted"):
        view.average({**context, "attention_mask": torch.zeros(17, 17)}, group, size)


def test_keys_that_are_not_rotated_stay():
    for model in (timm_model("vit_tiny_patch16_224"), timm_model("eva_giant_patch14_224"), hf_model("ViTModel")):
        view, x, context, _ = call_of(model, IMAGE)
        key = view.qkv(view.normalize(x), **context)[1]
        assert view.unrotate(key, **context) is key


def test_transformers_takes_the_rotations_that_are_selected():
    view, x, context, _ = call_of(hf_model("DINOv3ViTModel", num_register_tokens=0), IMAGE)
    selected = view.select(context, KEPT)
    few = x.take_along_dim(KEPT[:, :, None], 1)
    torch.testing.assert_close(blocks.run_block(view, few, **selected), view.block(few, **selected))


def test_biases_follow_the_tokens_kept():
    view, x, context, _ = call_of(timm_model("beit_base_patch16_224", use_shared_rel_pos_bias=True), IMAGE)
    full, some = view.bias(**context), view.bias(**view.select(context, KEPT))
    assert full.shape == (1, 3, 17, 17)
    for b in range(2):
        assert torch.equal(some[b], full[0][:, KEPT[b]][:, :, KEPT[b]])
    q, k, v = view.qkv(view.normalize(x), **context)
    by_hand = ((q @ k.mT) * 16**-0.5 + full).softmax(-1) @ v
    torch.testing.assert_close(blocks.attend(q, k, v, **blocks.attention_kwargs(view, **context)), by_hand)


COMPILED = {
    "timm": lambda: timm_model("eva02_tiny_patch14_224"),
    "timm, of each head": lambda: timm_model("vit_small_patch16_rope_mixed_224"),
    "timm, bias": lambda: timm_model("beit_base_patch16_224"),
    "transformers": lambda: hf_model("DINOv3ViTModel", num_register_tokens=0),
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_selection_compiles(make):
    view, x, context, _ = call_of(make(), IMAGE)

    def run(x, kept):
        return blocks.run_block(view, x.take_along_dim(kept[:, :, None], 1), **view.select(context, kept))

    with torch.no_grad():
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x, KEPT), run(x, KEPT))


@pytest.mark.parametrize("piece", ["rope", "bias"])
def test_a_view_that_lets_tokens_lose_their_places_is_detected(monkeypatch, piece):
    name, adapter = {"rope": ("eva02_tiny_patch14_224", "eva"), "bias": ("beit_base_patch16_224", "beit")}[piece]
    model, honest = timm_model(name), getattr(timm_adapters, adapter)

    def forgetful(model):
        model_view = honest(model)
        shuffled = lambda context, kept: view.select(context, torch.cat([kept[:, :1], kept[:, 1:].flip(1)], 1))  # noqa: E731
        view = model_view.blocks[0]
        return replace(model_view, blocks=(replace(view, select=shuffled), *model_view.blocks[1:]))

    check_blocks(model, IMAGE)
    monkeypatch.setattr(timm_adapters, adapter, forgetful)
    with pytest.raises(AssertionError, match=r"blocks.0 on some tokens with the context that its view selects"):
        check_blocks(model, IMAGE)


# --- masks and dropout ------------------------------------------------------------------------------------------

MASKS = {
    "boolean": torch.rand(17, 17, generator=torch.Generator().manual_seed(1)) < 0.7,
    "additive": torch.rand(17, 17, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_masks_of_timm(name, mask):
    view, x, context, y = call_of(timm_model(name), IMAGE)
    for shaped in (mask, mask.expand(2, 1, 17, 17)):
        masked = {**context, "attn_mask": shaped, "is_causal": False}
        own = view.block(x, **masked)
        assert not torch.allclose(own, y)
        torch.testing.assert_close(blocks.run_block(view, x, **masked), own)
        assert view.bias(**masked).dtype == x.dtype
        assert view.bias(**masked).ndim == 4
        with pytest.raises(NotSupported, match="attention with attn_mask cannot be restricted"):
            view.select(masked, KEPT)
    causal = {**context, "attn_mask": None, "is_causal": True}
    with pytest.raises(NotSupported, match="is_causal"):
        blocks.run_block(view, x, **causal)
    with pytest.raises(NotSupported, match="is_causal"):
        view.select(causal, KEPT)
    view.select({**context, "attn_mask": None, "is_causal": False}, KEPT)


class Masked(nn.Module):
    """A model of transformers, called as for padded input."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        mask = torch.ones(2, 17, dtype=torch.long)
        mask[:, 10:] = 0
        return self.model(x, attention_mask=mask)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_of_transformers(attention):
    model = hf_model("ViTModel")
    model.set_attn_implementation(attention)
    check_blocks(model, IMAGE)
    check_blocks(Masked(model), IMAGE)
    view, x, context, _ = call_of(Masked(model), IMAGE)
    assert context["attention_mask"] is not None
    with pytest.raises(NotSupported, match="attention with attention_mask cannot be restricted"):
        view.select(context, KEPT)
    with pytest.raises(NotSupported, match=r"an attention_mask of kind Tensor is for another attention implementation"):
        blocks.run_block(view, x, attention_mask=torch.ones(2, 17))


DROPPING = {
    "timm-vit": lambda: timm_model("vit_tiny_patch16_224", attn_drop_rate=0.3, proj_drop_rate=0.1, drop_path_rate=0.5),
    "timm-eva": lambda: timm_model(
        "eva02_tiny_patch14_224", attn_drop_rate=0.3, proj_drop_rate=0.1, drop_path_rate=0.5
    ),
    "timm-beit": lambda: timm_model(
        "beit_base_patch16_224", attn_drop_rate=0.3, proj_drop_rate=0.1, drop_path_rate=0.5
    ),
    "torchvision-vit": lambda: shaken(torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 64, attention_dropout=0.3)),
    "transformers-vit": lambda: hf_model("ViTModel", attention_probs_dropout_prob=0.3, hidden_dropout_prob=0.1),
    "transformers-clip": lambda: hf_model("CLIPVisionModel", attention_dropout=0.3),
    "transformers-dinov2": lambda: hf_model("Dinov2Model", attention_probs_dropout_prob=0.3, drop_path_rate=0.5),
    "transformers-dinov3": lambda: hf_model("DINOv3ViTModel", attention_dropout=0.3, drop_path_rate=0.5),
}


@pytest.mark.parametrize("make", DROPPING.values(), ids=DROPPING)
def test_dropout(make):
    model = make()
    assert only(model).blocks[1].dropout == 0
    _, x, context, y = call_of(model, IMAGE)
    view = only(model.train()).blocks[1]
    assert view.dropout == 0.3
    outputs = []
    for run in (lambda: view.block(x, **context), lambda: blocks.run_block(view, x, **context)):
        torch.manual_seed(1)
        outputs.append(run())
    torch.testing.assert_close(*outputs)  # the same elements are dropped, in the same order
    assert not torch.allclose(outputs[0], y)


def test_dropout_of_videomae():
    options = {"num_frames": 4, "tubelet_size": 2, "attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.1}
    model = hf_model("VideoMAEModel", **options)
    _, x, context, y = call_of(model, torch.rand(2, 4, 3, 32, 32))
    view = only(model.train()).blocks[1]
    torch.manual_seed(1)
    own = view.block(x, **context)
    torch.manual_seed(1)
    torch.testing.assert_close(blocks.run_block(view, x, **context), own)
    assert not torch.allclose(own, y)


# --- torchvision and transformers -------------------------------------------------------------------------------


def test_torchvision_blocks():
    vision_transformer = torchvision.models.vision_transformer
    stem = [vision_transformer.ConvStemConfig(16, 3, 8)]
    check_blocks(shaken(vision_transformer.VisionTransformer(32, 8, 2, 3, 48, 64, conv_stem_configs=stem)), IMAGE)
    model = shaken(torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 64))
    model.encoder.layers[0].self_attention = nn.Identity()
    with pytest.raises(NotSupported, match=r"torchvision's EncoderBlock with torch's MultiheadAttention has"):
        blocks.find(model)


TRANSFORMERS = {
    "ViT, no qkv bias": ("ViTModel", {"qkv_bias": False}),
    "CLIP, GELU": ("CLIPVisionModel", {"hidden_act": "gelu"}),
    "CLIP, quick GELU": ("CLIPVisionModel", {"hidden_act": "quick_gelu"}),
    "SigLIP, no head": ("SiglipVisionModel", {"vision_use_head": False}),
    "DINOv2, SwiGLU": ("Dinov2Model", {"use_swiglu_ffn": True}),
    "DINOv2, SwiGLU, registers": ("Dinov2WithRegistersModel", {"use_swiglu_ffn": True, "num_register_tokens": 3}),
    "DINOv3, gated MLP": ("DINOv3ViTModel", {"use_gated_mlp": True, "num_register_tokens": 1}),
    "DINOv3, biases": ("DINOv3ViTModel", {"query_bias": False, "key_bias": True, "proj_bias": False}),
}


@pytest.mark.parametrize(("name", "options"), TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_transformers_adapters(name, options):
    check_blocks(hf_model(name, **options), IMAGE)


def test_towers_are_found_inside():
    import transformers

    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    for name in ("CLIP", "Siglip"):
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=HF)
        views = blocks.find(getattr(transformers, f"{name}Model")(config))
        assert list(views) == ["vision_model"]  # the text tower has none
        assert len(views["vision_model"].blocks) == 2
    config = transformers.CLIPConfig(text_config=text, vision_config=HF)
    check_blocks(shaken(transformers.CLIPForImageClassification(config)), IMAGE)
    teacher = transformers_adapters.example("DeiTForImageClassificationWithTeacher", **HF)
    assert list(blocks.find(teacher)) == ["deit"]


def test_another_release_of_transformers_is_refused():
    model = hf_model("ViTModel")
    model.encoder = nn.Module()
    model.encoder.layer = model.layers
    del model.layers
    with pytest.raises(NotSupported, match=r"ViTModel of transformers \S+ is not built as in 5.24"):
        blocks.find(model)
    model = hf_model("Dinov2Model")
    model.encoder.layer[0].attention.query = model.encoder.layer[0].attention.q_proj
    del model.encoder.layer[0].attention.q_proj
    with pytest.raises(NotSupported, match="is not built as in"):
        blocks.find(model)


def count(view, x, state, **context):
    """Count the blocks before this one, known only from the state of the tokens, and weigh the count in."""
    before = 0 if state is None else state
    y = blocks.run_block(view, x, **context)
    return y + before * y.flip(-1), before + 1


PATCHED = [name for name in GLOBAL if name not in ("transformers-vivit", "transformers-ast")]


@pytest.mark.parametrize("name", PATCHED)
def test_blocks_are_patched_and_restored(name):
    model, x = examples.make(ADAPTERS[name])

    def answer(model):
        return examples.tensor_of(model(x))

    before, keys = answer(model), list(model.state_dict())
    for view in only(model).blocks:
        blocks.patch(view, count)
    during = answer(model)
    assert not torch.equal(during, before)
    assert torch.equal(answer(copy.deepcopy(model)), during)
    assert list(model.state_dict()) == keys
    for view in only(model).blocks:
        blocks.unpatch(view.block)
    assert torch.equal(answer(model), before)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_patched_blocks_of_transformers_are_recomputed_and_recorded():
    model, calls = hf_model("ViTModel"), []

    def forward(view, x, state, **context):
        calls.append(view.name)
        return count(view, x, state, **context)

    for view in only(model).blocks:
        blocks.patch(view, forward)
    assert len(model(IMAGE, output_hidden_states=True).hidden_states) == 3
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        calls.clear()
        model.train().zero_grad()
        model(IMAGE).last_hidden_state.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.layers.parameters()])
        assert len(calls) == (4 if checkpointing else 2)
    torch.testing.assert_close(*gradients)


# --- examples and the matrix ------------------------------------------------------------------------------------


def test_the_tensor_of_an_answer():
    hidden, pooled, logits = (torch.full((1,), float(i)) for i in range(3))
    assert examples.tensor_of(hidden) is hidden
    assert examples.tensor_of({"last_hidden_state": hidden, "pooler_output": None}) is hidden
    assert examples.tensor_of({"last_hidden_state": hidden, "pooler_output": pooled}) is pooled
    assert examples.tensor_of({"loss": None, "pooler_output": pooled, "logits": logits}) is logits
    with pytest.raises(NotSupported, match="the output is a list with none of the tensors logits"):
        examples.tensor_of([hidden])


def test_examples_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    examples.make(ADAPTERS["timm-vit"])
    assert torch.equal(torch.rand(1), expected)


def test_a_library_that_is_not_installed(monkeypatch, plm_registry):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="transformers"):
        examples.make(ADAPTERS["transformers-vit"])
    plm_registry(environ={"PLM_PLUGINS": ""})
    rows = {row["family"]: row for row in matrix.compute()}
    assert rows["transformers-vit"]["blocks"] == "not installed"
    assert rows["timm-vit"]["blocks"] == rows["torchvision-vit"]["blocks"] == 2
    assert rows["timm-swin"]["blocks"].startswith("no: windowed attention")
    assert not [cell for row in rows.values() for cell in row.values() if str(cell).startswith("ERROR")]
