"""The hooks of each kind of block against a slow reference in float64; masks, adapters and chunks."""

import pytest
import torch
from torch.nn import functional as F

import tome
from plm_core.errors import NotSupported

from .slow_references import attention, linear, normalized, slow_groups, slow_merge
from .tiny_models import ARCHITECTURES, TokenCounter, call, inputs, transformer, unet

diffusers = pytest.importorskip("diffusers")


PARTS = {
    "attention": {},
    "cross-attention": {"merge_attn": False, "merge_crossattn": True},
    "MLP": {"merge_attn": False, "merge_mlp": True},
    "all": {"merge_crossattn": True, "merge_mlp": True},
    "keys and values": {"kv_only": True},
}


def slow_basic(block, x, text, to, options, bias=None, text_bias=None):
    """Run one sample [N, C] through a BasicTransformerBlock whose parts get merged tokens."""
    x, text = x.double(), text.double()
    left = sorted(set(to))

    def merged(flag, x):
        return slow_merge(x, to) if flag else (x, list(range(len(x))))

    def attend(module, x, context, bias):
        q, (k, v) = linear(module.to_q, x), (linear(layer, context) for layer in (module.to_k, module.to_v))
        return linear(module.to_out[0], attention(q, k, v, module.heads, bias))

    def norm(layer, x):
        return F.layer_norm(x, x.shape[-1:], layer.weight.double(), layer.bias.double(), layer.eps)

    kv_only, self_attention = options.get("kv_only"), options.get("merge_attn", True)
    if bias is not None:  # [queries or 1, keys]
        bias = bias[:, left] if self_attention else bias
        bias = bias[left] if self_attention and not kv_only and len(bias) > 1 else bias
    if text_bias is not None and options.get("merge_crossattn") and len(text_bias) > 1:
        text_bias = text_bias[left]
    normed = norm(block.norm1, x)
    tokens, group = merged(self_attention, normed)
    queries, group = (normed, list(range(len(x)))) if kv_only else (tokens, group)
    x = x + attend(block.attn1, queries, tokens, bias)[group]
    tokens, group = merged(options.get("merge_crossattn"), norm(block.norm2, x))
    x = x + attend(block.attn2, tokens, text, text_bias)[group]
    tokens, group = merged(options.get("merge_mlp"), norm(block.norm3, x))
    hidden, gate = linear(block.ff.net[0].proj, tokens).chunk(2, -1)
    return x + linear(block.ff.net[2], hidden * F.gelu(gate))[group]


MASKS = {
    "no mask": {},
    "masks of keys": {"attention_mask": (2, 1, 48), "encoder_attention_mask": (2, 1, 48)},
    "masks of pairs": {"attention_mask": (2, 48, 48), "encoder_attention_mask": (2, 48, 48)},
}


@pytest.mark.parametrize("shapes", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
def test_a_basic_block_is_its_slow_reference(options, shapes):
    model = transformer()
    x, text = torch.randn(2, 16, 6, 8), torch.randn(2, 48, 12)  # as many words as tokens, which must not be confused
    masks = {name: (torch.rand(shape) < 0.3) * -10000.0 for name, shape in shapes.items()}
    tome.diffusion.apply(model, 0.6, use_rand=False, **options)
    captured = {}
    block = model.transformer_blocks[0]
    block.register_forward_hook(lambda _, args, output: captured.update(x=args[0], y=output))
    call(model, x, text, **masks)
    for i in range(2):
        to = slow_groups(captured["x"][i], 8, 6, 2, 2, int(48 * 0.6), [[0] * 4] * 3)
        biases = [masks[name][i].double() if masks else None for name in MASKS["masks of keys"]]
        with torch.no_grad():
            expected = slow_basic(block, captured["x"][i], text[i], to, options, *biases)
        torch.testing.assert_close(captured["y"][i].double(), expected, atol=1e-5, rtol=0)


def modulation(layer, temb, parts):
    return linear(layer.linear, F.silu(temb.double())).chunk(parts, -1)


@pytest.mark.parametrize(
    "options", [{}, {"merge_mlp": True}, {"kv_only": True}], ids=["attention", "MLP too", "kv_only"]
)
@torch.no_grad()
def test_a_joint_block_of_sd3_is_its_slow_reference(options):
    model = ARCHITECTURES["SD3"].build(dual_attention_layers=(), qk_norm=None)
    tome.diffusion.apply(model, 0.5, use_rand=False, **options)
    captured = {}
    block = model.transformer_blocks[0]
    block.register_forward_hook(
        lambda _, args, kwargs, output: captured.update(kwargs, text=output[0], image=output[1]), with_kwargs=True
    )
    call(model, **ARCHITECTURES["SD3"].inputs())
    attn = block.attn
    for i in range(2):
        x, text = (captured[name][i].double() for name in ("hidden_states", "encoder_hidden_states"))
        to = slow_groups(x, 8, 8, 2, 2, 32, [[0] * 4] * 4)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation(block.norm1, captured["temb"][i], 6)
        tokens, group = slow_merge(normalized(x) * (1 + scale) + shift, to)
        asking, back = (
            (normalized(x) * (1 + scale) + shift, list(range(64))) if "kv_only" in options else (tokens, group)
        )
        text_parts = modulation(block.norm1_context, captured["temb"][i], 6)
        normed = normalized(text) * (1 + text_parts[1]) + text_parts[0]
        q = torch.cat([linear(attn.to_q, asking), linear(attn.add_q_proj, normed)])
        k = torch.cat([linear(attn.to_k, tokens), linear(attn.add_k_proj, normed)])
        v = torch.cat([linear(attn.to_v, tokens), linear(attn.add_v_proj, normed)])
        both = attention(q, k, v, attn.heads)
        x = x + gate * linear(attn.to_out[0], both[: len(asking)])[back]
        tokens, group = normalized(x) * (1 + scale_mlp) + shift_mlp, list(range(64))
        if "merge_mlp" in options:
            tokens, group = slow_merge(tokens, to)
        hidden = F.gelu(linear(block.ff.net[0].proj, tokens), approximate="tanh")
        x = x + gate_mlp * linear(block.ff.net[2], hidden)[group]
        torch.testing.assert_close(captured["image"][i].double(), x, atol=1e-5, rtol=0)
        text = text + text_parts[2] * linear(attn.to_add_out, both[len(asking) :])
        hidden = F.gelu(
            linear(block.ff_context.net[0].proj, normalized(text) * (1 + text_parts[4]) + text_parts[3]),
            approximate="tanh",
        )
        text = text + text_parts[5] * linear(block.ff_context.net[2], hidden)
        torch.testing.assert_close(captured["text"][i].double(), text, atol=1e-5, rtol=0)


def rotated(x, place, sizes=(4, 6, 6)):
    """Rotate tokens [S, H, D] by their (image, row, column), pair by pair."""
    angles = [
        position / 10000 ** (2 * j / size)
        for position, size in zip(place.T.double(), sizes, strict=True)
        for j in range(size // 2)
    ]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    turn = torch.stack(angles, -1)[:, None]
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)).flatten(-2)


def rms(layer, x):
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight.double()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("options", [{}, {"merge_mlp": True}, {"merge_attn": False, "merge_mlp": True}], ids=str)
@torch.no_grad()
def test_flux_rotates_merged_tokens_by_their_destination(options, batch):
    """Every part of the single block, in which text and image are one sequence, against a slow reference."""
    model = ARCHITECTURES["Flux"].build()
    kwargs = {name: v if "ids" in name else v[:batch] for name, v in ARCHITECTURES["Flux"].inputs().items()}
    tome.diffusion.apply(model, 0.5, use_rand=False, **options)
    captured = {}
    block = model.single_transformer_blocks[0]
    block.register_forward_hook(
        lambda _, args, kwargs, output: captured.update(kwargs, text=output[0], image=output[1]), with_kwargs=True
    )
    call(model, **kwargs)
    attn, heads = block.attn, block.attn.heads
    for i in range(batch):
        x, text = (captured[name][i].double() for name in ("hidden_states", "encoder_hidden_states"))
        to = slow_groups(x, 8, 6, 2, 2, 24, [[0] * 4] * 3)
        shift, scale, gate = modulation(block.norm, captured["temb"][i], 3)
        sequence = torch.cat([text, x])
        normed = normalized(sequence) * (1 + scale) + shift
        tokens, group = slow_merge(normed[5:], to)
        tokens, group = torch.cat([normed[:5], tokens]), [*range(5), *(5 + g for g in group)]
        places = torch.cat([kwargs["txt_ids"], kwargs["img_ids"][sorted(set(to))]])
        if options.get("merge_attn", True):
            asking, back = tokens, group
        else:
            asking, back, places = normed, list(range(53)), torch.cat([kwargs["txt_ids"], kwargs["img_ids"]])
        q, k, v = (linear(layer, asking).unflatten(-1, (heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        q, k = rotated(rms(attn.norm_q, q), places), rotated(rms(attn.norm_k, k), places)
        attended = attention(q.flatten(1), k.flatten(1), v.flatten(1), heads)[back]
        mlp = F.gelu(linear(block.proj_mlp, tokens), approximate="tanh")[group]
        if not options.get("merge_mlp"):
            mlp = F.gelu(linear(block.proj_mlp, normed), approximate="tanh")
        out = sequence + gate * linear(block.proj_out, torch.cat([attended, mlp], 1))
        torch.testing.assert_close(captured["image"][i].double(), out[5:], atol=2e-5, rtol=0)
        torch.testing.assert_close(captured["text"][i].double(), out[:5], atol=2e-5, rtol=0)


@torch.no_grad()
def test_flux_double_block_is_its_slow_reference():
    model = ARCHITECTURES["Flux"].build()
    kwargs = ARCHITECTURES["Flux"].inputs()
    tome.diffusion.apply(model, 0.5, use_rand=False)
    captured = {}
    attn = model.transformer_blocks[0].attn
    model.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: captured.update(x=kwargs), with_kwargs=True
    )
    attn.register_forward_hook(lambda _, args, kwargs, output: captured.update(out=output), with_kwargs=True)
    inner = model.transformer_blocks[0].norm1
    inner.register_forward_hook(lambda _, args, output: captured.update(image=output[0]))
    model.transformer_blocks[0].norm1_context.register_forward_hook(lambda _, args, out: captured.update(text=out[0]))
    call(model, **kwargs)
    for i in range(2):
        to = slow_groups(captured["x"]["hidden_states"][i], 8, 6, 2, 2, 24, [[0] * 4] * 3)
        tokens, group = slow_merge(captured["image"][i].double(), to)
        text, places = captured["text"][i].double(), torch.cat([kwargs["txt_ids"], kwargs["img_ids"][sorted(set(to))]])
        parts = []
        for own, added in (("q", "q"), ("k", "k"), ("v", "v")):
            image = linear(getattr(attn, f"to_{own}"), tokens).unflatten(-1, (attn.heads, -1))
            words = linear(getattr(attn, f"add_{added}_proj"), text).unflatten(-1, (attn.heads, -1))
            if own != "v":
                image, words = rms(getattr(attn, f"norm_{own}"), image), rms(getattr(attn, f"norm_added_{own}"), words)
                parts.append(rotated(torch.cat([words, image]), places).flatten(1))
            else:
                parts.append(torch.cat([words, image]).flatten(1))
        both = attention(*parts, attn.heads)
        torch.testing.assert_close(
            captured["out"][0][i].double(), linear(attn.to_out[0], both[5:])[group], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(captured["out"][1][i].double(), linear(attn.to_add_out, both[:5]), atol=1e-5, rtol=0)


def test_masks_of_tokens_with_more_dimensions():
    """diffusers turns masks into [B, 1, N], or [B * heads, N, N] per head and query."""
    from tome.diffusion.hooks import merge_mask
    from tome.matching import Matching

    matching = Matching(torch.tensor([[0, 3], [2, 1]]), torch.tensor([[1, 2], [0, 3]]), torch.zeros(2, 2).long())
    wide = torch.arange(4.0 * 16).view(4, 4, 4)  # two samples of two heads
    expected = torch.stack([wide[i][kept][:, kept] for i, kept in enumerate([[0, 3], [0, 3], [2, 1], [2, 1]])])
    assert torch.equal(merge_mask(wide, matching, queries=True, keys=True), expected)
    heads = wide.unflatten(0, (2, 2))
    assert torch.equal(merge_mask(heads, matching, queries=True, keys=True), expected.unflatten(0, (2, 2)))
    keys = torch.stack([wide[i][:, kept] for i, kept in enumerate([[0, 3], [0, 3], [2, 1], [2, 1]])])
    assert torch.equal(merge_mask(wide, matching, queries=False, keys=True), keys)
    one = torch.arange(8.0).view(2, 1, 4)
    assert torch.equal(merge_mask(one, matching, queries=True, keys=True), torch.tensor([[[0.0, 3]], [[6, 5]]]))
    text = torch.rand(2, 1, 7)
    assert merge_mask(text, matching, queries=True, keys=False) is text


@torch.no_grad()
def test_feed_forward_in_chunks():
    model, args = unet(), inputs(4)

    def out(**options):
        tome.diffusion.apply(model, 0.5, seed=0, **options)
        output = call(model, *args)
        tome.diffusion.remove(model)
        return output

    def chunk(size, dim):
        for module in model.modules():
            if hasattr(module, "set_chunk_feed_forward"):
                module.set_chunk_feed_forward(size, dim)

    whole, mlp = out(), out(merge_mlp=True)
    assert not torch.allclose(whole, mlp, atol=1e-4)
    for dim in (0, 1):
        chunk(2, dim)
        torch.testing.assert_close(out(), whole)
    chunk(2, 0)
    counter = TokenCounter(model, ".ff")
    torch.testing.assert_close(out(merge_mlp=True), mlp)
    assert len(counter.tokens) == 2 * 3
    tome.diffusion.apply(model, 0.5, use_rand=False, merge_mlp=True)
    torch.testing.assert_close(call(model, *args), call(model, *args))  # each call counts its chunks from zero
    tome.diffusion.remove(model)
    chunk(2, 1)
    with pytest.raises(NotSupported, match="chunk the feed-forward along dim=0"):
        out(merge_mlp=True)


def test_ip_adapter_masks_are_refused_for_merged_queries_only():
    model, args = transformer(), (torch.randn(2, 16, 6, 8), torch.randn(2, 5, 12))
    masks = {"cross_attention_kwargs": {"ip_adapter_masks": [torch.ones(1, 1, 6, 8)]}}
    tome.diffusion.apply(model, use_rand=False)
    assert torch.equal(call(model, *args, **masks), call(model, *args))  # diffusers passes them to self-attention too
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, merge_crossattn=True)
    with pytest.raises(NotSupported, match="ip_adapter_masks need every token"):
        call(model, *args, **masks)


def test_the_ip_adapter_of_flux_gives_an_image_of_all_tokens():
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    model, kwargs = ARCHITECTURES["Flux"].build(), ARCHITECTURES["Flux"].inputs()
    attention = model.transformer_blocks[0].attn
    attention.set_processor(FluxIPAdapterAttnProcessor(hidden_size=32, cross_attention_dim=12, num_tokens=(3,)))
    for layer in (attention.to_v, attention.add_v_proj, model.single_transformer_blocks[0].attn.to_v):
        torch.nn.init.zeros_(layer.weight)  # only the adapter has an output
        torch.nn.init.zeros_(layer.bias)
    kwargs |= {"joint_attention_kwargs": {"ip_hidden_states": [torch.ones(2, 3, 12)]}}  # the same for every token
    plain = call(model, **kwargs)
    adapter = TokenCounter(model, "transformer_blocks.0.attn.to_q")
    tome.diffusion.apply(model, 0.5, seed=0)
    torch.testing.assert_close(call(model, **kwargs), plain, atol=1e-5, rtol=0)
    assert adapter.tokens[0] == 24


def test_fused_projections():
    model, args = unet(), inputs()
    tome.diffusion.apply(model, seed=0)
    apart = call(model, *args)
    model.fuse_qkv_projections()
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, seed=0)
    torch.testing.assert_close(call(model, *args), apart)
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, kv_only=True)
    with pytest.raises(NotSupported, match=r"unfuse_qkv_projections\(\)"):
        call(model, *args)
    joint, kwargs = ARCHITECTURES["SD3"].build(), ARCHITECTURES["SD3"].inputs()
    tome.diffusion.apply(joint, kv_only=True, seed=0)
    call(joint, **kwargs)
    joint.fuse_qkv_projections()
    with pytest.raises(NotSupported, match=r"unfuse_qkv_projections\(\)"):
        call(joint, **kwargs)


def test_rotary_positions_indexed_in_another_way_are_refused():
    from tome.diffusion.hooks import PerSampleTable

    table = PerSampleTable(torch.rand(2, 5, 4))
    assert table[None, :, None, :].shape == (2, 5, 1, 4)
    for index in ((None, None, slice(None), slice(None)), 0, slice(None)):
        with pytest.raises(NotSupported, match="rotary positions indexed by"):
            table[index]
