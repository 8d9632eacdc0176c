"""ToMe for diffusion: recorded outputs of tomesd, tomesd itself if it is installed, and slow references in float64."""

import copy
import pickle
import threading
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import tome
from plm_core.errors import InputError, NotSupported
from tome.diffusion import matching as matching_module

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

RANDOM2D = ["norand_8x8", "rand_8x6", "rand_7x5_nodiv", "rand_8x8_sx4_sy2", "norand_clip"]
TEXT = (2, 5, 12)
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 16),
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VIDEO = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (32, 32), "cross_attention_dim": 12}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
}
CAPTIONS = {"cross_attention_dim": 16, "caption_channels": 12}


def attends(kind="2D", levels=(True, False), up=True):
    """Which levels of a UNet have attention; none in the middle."""
    types = {"down_block_types": tuple(f"CrossAttnDownBlock{kind}" if has else f"DownBlock{kind}" for has in levels)}
    if up:
        types["up_block_types"] = tuple(f"CrossAttnUpBlock{kind}" if has else f"UpBlock{kind}" for has in levels[::-1])
    return types


def ids(h, w):
    """Flux's (image, row, column) of packed tokens."""
    rows, columns = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    return torch.stack([torch.zeros(h, w), rows, columns], -1).flatten(0, 1)


@dataclass
class Architecture:
    """A tiny model of diffusers, and what it is called with: shapes of random tensors, or values."""

    model: str
    config: dict
    inputs: dict
    lengths: tuple = (64,)
    """Of the sequences in attention that have an image in them which is merged."""

    def build(self, **changes):
        torch.manual_seed(0)
        model = getattr(diffusers, self.model)(**self.config | changes).eval()
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero, such as the outputs of a ControlNet, would hide the rest
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    def given(self):
        torch.manual_seed(1)
        return {k: torch.randn(v) if isinstance(v, tuple) else copy.deepcopy(v) for k, v in self.inputs.items()}


ARCHITECTURES = {
    "SD": Architecture(
        "UNet2DConditionModel",
        UNET | attends(),
        {"sample": (2, 4, 8, 8), "timestep": 500, "encoder_hidden_states": TEXT},
    ),
    "SDXL": Architecture(
        "UNet2DConditionModel",
        UNET
        | attends(levels=(False, True))
        | {"transformer_layers_per_block": [1, 2], "addition_embed_type": "text_time", "addition_time_embed_dim": 4}
        | {"projection_class_embeddings_input_dim": 16 + 6 * 4},
        {
            "sample": (2, 4, 16, 16),
            "timestep": 500,
            "encoder_hidden_states": TEXT,
            "added_cond_kwargs": {"text_embeds": torch.ones(2, 16), "time_ids": torch.ones(2, 6)},
        },
    ),
    "GLIGEN": Architecture(
        "UNet2DConditionModel",
        UNET | attends() | {"attention_type": "gated"},
        {
            "sample": (2, 4, 8, 8),
            "timestep": 500,
            "encoder_hidden_states": TEXT,
            "cross_attention_kwargs": {
                "gligen": {
                    "boxes": torch.rand(2, 3, 4),
                    "masks": torch.ones(2, 3),
                    "positive_embeddings": torch.ones(2, 3, 12),
                }
            },
        },
    ),
    "ControlNet": Architecture(
        "ControlNetModel",
        {name: value for name, value in UNET.items() if name != "sample_size"}
        | attends(up=False)
        | {"conditioning_embedding_out_channels": (8, 8)},
        {"sample": (2, 4, 8, 8), "timestep": 500, "encoder_hidden_states": TEXT, "controlnet_cond": (2, 3, 16, 16)},
    ),
    "PixArt": Architecture(
        "PixArtTransformer2DModel",
        DIT | CAPTIONS | {"use_additional_conditions": False},
        {
            "hidden_states": (2, 4, 16, 16),
            "timestep": torch.tensor([500, 500]),
            "encoder_hidden_states": TEXT,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "DiT": Architecture(
        "DiTTransformer2DModel",
        DIT | {"num_embeds_ada_norm": 10},
        {
            "hidden_states": (2, 4, 16, 16),
            "timestep": torch.tensor([500, 500]),
            "class_labels": torch.tensor([1, 2]),
        },
    ),
    "SD3": Architecture(
        "SD3Transformer2DModel",
        DIT
        | {"joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10}
        | {"pos_embed_max_size": 16, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        {
            "hidden_states": (2, 4, 16, 16),
            "timestep": torch.tensor([500, 500]),
            "encoder_hidden_states": TEXT,
            "pooled_projections": (2, 10),
        },
    ),
    "Flux": Architecture(
        "FluxTransformer2DModel",
        {"in_channels": 8, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
        | {"num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10}
        | {"axes_dims_rope": (4, 6, 6)},
        {
            "hidden_states": (2, 48, 8),
            "timestep": torch.tensor([0.5, 0.5]),
            "encoder_hidden_states": TEXT,
            "pooled_projections": (2, 10),
            "img_ids": ids(6, 8),
            "txt_ids": torch.zeros(5, 3),
        },
        lengths=(48, 48 + 5),
    ),
    "UNet3D": Architecture(
        "UNet3DConditionModel",
        VIDEO | attends("3D") | {"attention_head_dim": 8},
        {"sample": (2, 4, 3, 8, 8), "timestep": 500, "encoder_hidden_states": TEXT},
    ),
    "AnimateDiff": Architecture(
        "UNetMotionModel",
        VIDEO
        | attends("Motion")
        | {"num_attention_heads": 4, "motion_num_attention_heads": 4, "motion_max_seq_length": 8, "norm_num_groups": 8},
        {"sample": (2, 4, 3, 8, 8), "timestep": 500, "encoder_hidden_states": (6, 5, 12)},
    ),
    "Stable Video": Architecture(
        "UNetSpatioTemporalConditionModel",
        VIDEO
        | attends("SpatioTemporal")
        | {"in_channels": 8, "num_attention_heads": 4, "addition_time_embed_dim": 4}
        | {"projection_class_embeddings_input_dim": 12},
        {
            "sample": (2, 3, 8, 8, 8),
            "timestep": torch.tensor(0.3),
            "encoder_hidden_states": (2, 1, 12),
            "added_time_ids": (2, 3),
        },
    ),
    "Latte": Architecture(
        "LatteTransformer3DModel",
        DIT | CAPTIONS | {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "video_length": 3},
        {
            "hidden_states": (2, 4, 3, 16, 16),
            "timestep": torch.tensor([500, 500]),
            "encoder_hidden_states": TEXT,
        },
    ),
}


def unet(seed=0, **changes):
    torch.manual_seed(seed)
    return diffusers.UNet2DConditionModel(**UNET | attends() | {"mid_block_type": None} | changes).eval()


def inputs(batch=2, h=8, w=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, h, w, generator=generator)
    return latents, torch.tensor(500), torch.randn(batch, 5, 12, generator=generator)


@torch.no_grad()
def call(model, *args, **kwargs):
    out = model(*args, **kwargs, return_dict=False)[0]
    return out if torch.is_tensor(out) else out[-1]  # a ControlNet's for its lowest level


def transformer(seed=0, **changes):
    """The smallest model with a block: no convolutions, one BasicTransformerBlock on 6 x 8 tokens, 2 heads of 8."""
    torch.manual_seed(seed)
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 16, "norm_num_groups": 8}
    return diffusers.Transformer2DModel(**config | {"num_layers": 1, "cross_attention_dim": 12} | changes).eval()


# ---- references, one token at a time


def slow_groups(metric, w, h, sx, sy, r, choice):
    """For one sample [N, C]: the destination of each token, itself for those that are not merged."""
    metric = metric.double()
    windows = [(y, x) for y in range(h // sy) for x in range(w // sx)]
    destinations = [(y * sy + choice[y][x] // sx) * w + x * sx + choice[y][x] % sx for y, x in windows]
    best = {}
    for source in set(range(w * h)) - set(destinations):
        cosines = [F.cosine_similarity(metric[source], metric[to], dim=0).item() for to in destinations]
        best[source] = (max(cosines), destinations[cosines.index(max(cosines))])
    to = list(range(w * h))
    for source in sorted(best, key=lambda token: -best[token][0])[:r]:
        to[source] = best[source][1]
    return to


def slow_merge(x, to):
    """[N, C] -> the tokens left by place, [n, C], and for each of N its place among them."""
    left = sorted(set(to))
    return torch.stack([x[[i for i, t in enumerate(to) if t == place]].mean(0) for place in left]), [
        left.index(t) for t in to
    ]


def attention(q, k, v, heads, bias=None):
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5 + (0 if bias is None else bias)
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def normalized(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def linear(layer, x):
    return x @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())


class Seen:
    """How many tokens go through modules, found by the end of their name."""

    def __init__(self, model, *suffixes):
        self.tokens = []
        self.handles = [
            module.register_forward_pre_hook(lambda _, args: self.tokens.append(args[0].shape[1]))
            for name, module in model.named_modules()
            if name.endswith(suffixes)
        ]
        assert self.handles

    def during(self, run):
        self.tokens.clear()
        run()
        return list(self.tokens)


@pytest.fixture
def matched(monkeypatch):
    """The metrics' shapes of all matchings made."""
    from tome.diffusion import state

    made, match = [], state.match
    monkeypatch.setattr(state, "match", lambda metric, *args: made.append(tuple(metric.shape)) or match(metric, *args))
    return made


# ---- matching


@pytest.mark.parametrize("case", RANDOM2D)
def test_recorded_matchings(golden, case):
    recorded = golden("sd_random2d")
    config, given, expected = recorded.config[case], recorded.of(case, "inputs"), recorded.of(case)
    generator = torch.Generator().manual_seed(config["generator_seed"])
    sizes = (config[name] for name in ("w", "h", "sx", "sy", "r", "no_rand"))
    merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(given["metric"], *sizes, generator)
    tokens = torch.arange(given["x"].shape[1]).expand(given["x"].shape[0], -1)[..., None]
    # each output token's place is that of its destination: find it by merging a copy in which sources are nothing
    destinations = expected["dst_sorted"]
    is_destination = torch.isin(tokens, destinations)
    left = tokens.shape[1] - destinations.numel() - min(config["r"], tokens.shape[1] - destinations.numel())
    merged = merge(tokens.double(), mode="amax")[:, :left, 0]
    assert torch.equal(merged.sort(-1).values.long(), expected["unmerged_sorted"])
    places = merge(torch.where(is_destination, tokens, -1), mode="amax")[:, left:, 0]
    assert torch.equal(places, destinations.expand_as(places))  # in ascending order, which tomesd leaves open
    for mode in ("mean", "sum"):
        out = merge(given["x"], mode=mode)
        canonical = torch.cat([out[:, :left].take_along_dim(merged.argsort(-1)[..., None], 1), out[:, left:]], 1)
        torch.testing.assert_close(canonical, expected[f"merge_{mode}_canon"], atol=1e-5, rtol=0)
    torch.testing.assert_close(unmerge(merge(given["x"])), expected["unmerge_of_mean"], atol=1e-5, rtol=0)
    places = torch.cat([merged, destinations.expand(len(merged), -1).double()], 1)
    assert torch.equal(unmerge(places[..., None])[..., 0].long(), expected["assign"])


@pytest.mark.parametrize(
    ("w", "h", "sx", "sy", "r"), [(6, 4, 2, 2, 12), (5, 7, 3, 2, 20), (4, 9, 1, 3, 99), (3, 3, 3, 3, 4)]
)
def test_matching_is_what_the_paper_says(w, h, sx, sy, r):
    metric = torch.randn(2, w * h, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(w))
    choice = torch.randint(sx * sy, (h // sy, w // sx, 1), generator=torch.Generator().manual_seed(h))[..., 0].tolist()
    merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(
        metric, w, h, sx, sy, r, generator=torch.Generator().manual_seed(h)
    )
    out = unmerge(merge(metric))
    for sample, got in zip(metric, out, strict=True):
        tokens, group = slow_merge(sample, slow_groups(sample, w, h, sx, sy, r, choice))
        torch.testing.assert_close(got, tokens[group])
        assert merge(metric).shape[1] == len(tokens)


def test_half_precision_is_compared_in_float32():
    metric = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    place = torch.arange(64.0).expand(2, -1)[..., None]
    for dtype in (torch.bfloat16, torch.float16):
        pairs = (tome.diffusion.bipartite_soft_matching_random2d(m, 8, 8, 2, 2, 30, True) for m in
                 (metric.to(dtype), metric.to(dtype).float()))  # fmt: skip
        low, high = (merge(place) for merge, _ in pairs)
        assert torch.equal(low, high)


def test_best_is_max():
    scores = torch.randn(2, 50, 96, generator=torch.Generator().manual_seed(0))
    scores[0, :20] = scores[0, :20].round()  # ties: the first one counts
    scores[1, 3, 70:] = torch.nan
    scores[1, 4] = torch.nan
    for wide in (scores, scores[..., :50]):
        best, where = matching_module._greatest(wide)
        expected = wide.max(-1)
        assert torch.equal(best.nan_to_num(9), expected.values.nan_to_num(9))
        assert torch.equal(where, expected.indices)


def test_matching_in_parts_is_matching_at_once(monkeypatch):
    metric = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    parts, similarity = [], matching_module.similarity
    monkeypatch.setattr(matching_module, "similarity", lambda a, b: parts.append(a.shape[1]) or similarity(a, b))
    whole, _ = tome.diffusion.bipartite_soft_matching_random2d(metric, 8, 8, 2, 2, 30, True)
    monkeypatch.setattr(matching_module, "SCORES", 2 * 16 * 20)
    in_parts, _ = tome.diffusion.bipartite_soft_matching_random2d(metric, 8, 8, 2, 2, 30, True)
    assert parts == [48, 20, 20, 8]
    assert torch.equal(whole(metric), in_parts(metric))


def test_no_tokens_to_merge_is_identity():
    x = torch.rand(1, 16, 3)
    for r in (0, -2):
        merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(x, 4, 4, 2, 2, r)
        assert merge(x, mode="sum") is x
        assert unmerge(x) is x


def test_without_a_generator_the_global_one_chooses():
    x = torch.rand(1, 64, 3)

    def merged():
        return tome.diffusion.bipartite_soft_matching_random2d(x, 8, 8, 2, 2, 32)[0](x)

    torch.manual_seed(1)
    first, second = merged(), merged()
    torch.manual_seed(1)
    assert torch.equal(merged(), first)
    assert not torch.equal(first, second)


BAD_MATCHING = {
    "tokens": ({"w": 5}, "16 tokens, not w x h = 5 x 4"),
    "two dimensions": ({"metric": torch.rand(16, 3)}, "metric is"),
    "integers": ({"metric": torch.ones(1, 16, 3, dtype=torch.int64)}, "metric is"),
    "NaN": ({"metric": torch.full((1, 16, 3), torch.nan)}, "metric has NaN"),
    "sx": ({"sx": 0}, "sx is 0"),
    "sy": ({"sy": -1}, "sy is -1"),
    "sy float": ({"sy": 2.0}, "sy is 2.0"),
    "h": ({"h": True}, "h is True"),
    "r": ({"r": 2.5}, "r is 2.5"),
    "window": ({"sx": 5}, "windows of sx x sy = 5 x 2 do not fit into w x h = 4 x 4"),
}


@pytest.mark.parametrize(("change", "message"), BAD_MATCHING.values(), ids=BAD_MATCHING)
def test_bad_arguments_of_matching(change, message):
    good = {"metric": torch.rand(1, 16, 3), "w": 4, "h": 4, "sx": 2, "sy": 2, "r": 4}
    tome.diffusion.bipartite_soft_matching_random2d(**good)
    with pytest.raises(InputError, match=message) as raised:
        tome.diffusion.bipartite_soft_matching_random2d(**good | change)
    assert "\n" not in str(raised.value)


# ---- like tomesd


def recorded_unet(golden):
    recorded = golden("sd_unet")
    model = diffusers.UNet2DConditionModel(**recorded.config["unet"]).eval()
    model.load_state_dict(recorded.weights)
    return model, recorded


@pytest.mark.parametrize("run", ["norand", "rand", "all_ds2", "sx3"])
def test_recorded_outputs(golden, run):
    model, recorded = recorded_unet(golden)
    sample, *rest = (recorded.inputs[name] for name in ("sample", "timestep", "encoder_hidden_states"))
    keys = list(model.state_dict())
    unpatched = call(model, sample, *rest)
    torch.testing.assert_close(unpatched, recorded.outputs["unpatched"], atol=2e-5, rtol=0)
    options = dict(recorded.config["runs"][run])
    seed = options.pop("seed", 123)
    assert tome.diffusion.apply(model, **options) is model
    assert list(model.state_dict()) == keys
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    for i, factor in enumerate((1, 0.9)):
        expected = recorded.outputs[f"{run}.call{i + 1}"]
        assert (expected - unpatched).abs().max() > 0.1
        torch.testing.assert_close(call(model, factor * sample, *rest), expected, atol=2e-5, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert tome.diffusion.remove(model) is model
    assert torch.equal(call(model, sample, *rest), unpatched)
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules()
    )
    assert not [name for name in vars(model) if "tome" in name]


ORACLE = {
    "defaults": ({}, {}),
    "narrow windows": ({"ratio": 0.6, "sx": 4, "sy": 1}, {}),
    "all levels and parts": ({"ratio": 0.3, "max_downsample": 4, "merge_crossattn": True, "merge_mlp": True}, {}),
    "not divisible": ({"ratio": 0.5, "max_downsample": 2, "merge_mlp": True}, {"h": 9, "w": 13}),
    "odd batch": ({"ratio": 0.5}, {"batch": 3}),
}


@pytest.mark.parametrize(("options", "sizes"), ORACLE.values(), ids=ORACLE)
@pytest.mark.filterwarnings("ignore:.*odd batch")
def test_the_original_says_the_same(options, sizes):
    tomesd = pytest.importorskip("tomesd")
    model = unet(**attends(levels=(True, True)))
    given = inputs(**sizes)
    steps = [(given[0] * factor, *given[1:]) for factor in (1, 0.8, 0.6)]
    tomesd.apply_patch(model, **options)
    torch.manual_seed(5)
    theirs = [call(model, *step) for step in steps]
    tomesd.remove_patch(model)
    unpatched = [call(model, *step) for step in steps]
    tome.diffusion.apply(model, **options)
    torch.manual_seed(5)
    for step, expected, plain in zip(steps, theirs, unpatched, strict=True):
        assert (expected - plain).abs().max() > 1e-3
        torch.testing.assert_close(call(model, *step), expected, atol=2e-5, rtol=0)


def pipeline(model, controlnet=None):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    vae = diffusers.AutoencoderKL(block_out_channels=[8], norm_num_groups=4, latent_channels=4, **blocks)
    kind = diffusers.StableDiffusionPipeline if controlnet is None else diffusers.StableDiffusionControlNetPipeline
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    more = {} if controlnet is None else {"controlnet": controlnet}
    scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    made = kind(vae=vae, unet=model, scheduler=scheduler, requires_safety_checker=False, **parts, **more)
    made.set_progress_bar_config(disable=True)
    return made


def generate(pipe, **more):
    latents, _, text = inputs(1)
    size = {"height": 8, "width": 8, "output_type": "latent", "num_inference_steps": 4}
    size["latents"] = latents
    return pipe(prompt_embeds=text, negative_prompt_embeds=-text, **size | more).images


def test_a_pipeline_is_patched_like_the_original_does():
    tomesd = pytest.importorskip("tomesd")
    pipe = pipeline(unet())
    plain = generate(pipe)
    tomesd.apply_patch(pipe, ratio=0.5)
    torch.manual_seed(2)
    theirs = generate(pipe)
    tomesd.remove_patch(pipe)
    assert tome.apply(pipe, ratio=0.5) is pipe
    torch.manual_seed(2)
    ours = generate(pipe)
    assert (ours - plain).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    tome.remove(pipe)
    assert torch.equal(generate(pipe), plain)


# ---- against slow references


PARTS = {
    "attention": {},
    "cross-attention": {"merge_attn": False, "merge_crossattn": True},
    "MLP": {"merge_attn": False, "merge_mlp": True},
    "all": {"merge_crossattn": True, "merge_mlp": True},
    "keys and values": {"kv_only": True},
}


def slow_basic(block, x, text, to, options, bias=None, text_bias=None):
    """One sample [N, C] through a BasicTransformerBlock whose parts see merged tokens."""
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
    x, text = torch.randn(2, 16, 6, 8), torch.randn(2, 48, 12)  # as many words as tokens: not to be taken for them
    masks = {name: (torch.rand(shape) < 0.3) * -10000.0 for name, shape in shapes.items()}
    tome.diffusion.apply(model, 0.6, use_rand=False, **options)
    seen = {}
    block = model.transformer_blocks[0]
    block.register_forward_hook(lambda _, args, output: seen.update(x=args[0], y=output))
    call(model, x, text, **masks)
    for i in range(2):
        to = slow_groups(seen["x"][i], 8, 6, 2, 2, int(48 * 0.6), [[0] * 4] * 3)
        biases = [masks[name][i].double() if masks else None for name in MASKS["masks of keys"]]
        with torch.no_grad():
            expected = slow_basic(block, seen["x"][i], text[i], to, options, *biases)
        torch.testing.assert_close(seen["y"][i].double(), expected, atol=1e-5, rtol=0)


def modulation(layer, temb, parts):
    return linear(layer.linear, F.silu(temb.double())).chunk(parts, -1)


@pytest.mark.parametrize(
    "options", [{}, {"merge_mlp": True}, {"kv_only": True}], ids=["attention", "MLP too", "kv_only"]
)
@torch.no_grad()
def test_a_joint_block_of_sd3_is_its_slow_reference(options):
    model = ARCHITECTURES["SD3"].build(dual_attention_layers=(), qk_norm=None)
    tome.diffusion.apply(model, 0.5, use_rand=False, **options)
    seen = {}
    block = model.transformer_blocks[0]
    block.register_forward_hook(
        lambda _, args, kwargs, output: seen.update(kwargs, text=output[0], image=output[1]), with_kwargs=True
    )
    call(model, **ARCHITECTURES["SD3"].given())
    attn = block.attn
    for i in range(2):
        x, text = (seen[name][i].double() for name in ("hidden_states", "encoder_hidden_states"))
        to = slow_groups(x, 8, 8, 2, 2, 32, [[0] * 4] * 4)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation(block.norm1, seen["temb"][i], 6)
        tokens, group = slow_merge(normalized(x) * (1 + scale) + shift, to)
        asking, back = (
            (normalized(x) * (1 + scale) + shift, list(range(64))) if "kv_only" in options else (tokens, group)
        )
        text_parts = modulation(block.norm1_context, seen["temb"][i], 6)
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
        torch.testing.assert_close(seen["image"][i].double(), x, atol=1e-5, rtol=0)
        text = text + text_parts[2] * linear(attn.to_add_out, both[len(asking) :])
        hidden = F.gelu(
            linear(block.ff_context.net[0].proj, normalized(text) * (1 + text_parts[4]) + text_parts[3]),
            approximate="tanh",
        )
        text = text + text_parts[5] * linear(block.ff_context.net[2], hidden)
        torch.testing.assert_close(seen["text"][i].double(), text, atol=1e-5, rtol=0)


def rotated(x, place, sizes=(4, 6, 6)):
    """Tokens [S, H, D] turned by their (image, row, column), pair by pair."""
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
def test_flux_turns_merged_tokens_by_their_destination(options, batch):
    """The single block, whose text and image are one sequence, with all of its parts slowly."""
    model = ARCHITECTURES["Flux"].build()
    given = {name: v if "ids" in name else v[:batch] for name, v in ARCHITECTURES["Flux"].given().items()}
    tome.diffusion.apply(model, 0.5, use_rand=False, **options)
    seen = {}
    block = model.single_transformer_blocks[0]
    block.register_forward_hook(
        lambda _, args, kwargs, output: seen.update(kwargs, text=output[0], image=output[1]), with_kwargs=True
    )
    call(model, **given)
    attn, heads = block.attn, block.attn.heads
    for i in range(batch):
        x, text = (seen[name][i].double() for name in ("hidden_states", "encoder_hidden_states"))
        to = slow_groups(x, 8, 6, 2, 2, 24, [[0] * 4] * 3)
        shift, scale, gate = modulation(block.norm, seen["temb"][i], 3)
        sequence = torch.cat([text, x])
        normed = normalized(sequence) * (1 + scale) + shift
        tokens, group = slow_merge(normed[5:], to)
        tokens, group = torch.cat([normed[:5], tokens]), [*range(5), *(5 + g for g in group)]
        places = torch.cat([given["txt_ids"], given["img_ids"][sorted(set(to))]])
        if options.get("merge_attn", True):
            asking, back = tokens, group
        else:
            asking, back, places = normed, list(range(53)), torch.cat([given["txt_ids"], given["img_ids"]])
        q, k, v = (linear(layer, asking).unflatten(-1, (heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        q, k = rotated(rms(attn.norm_q, q), places), rotated(rms(attn.norm_k, k), places)
        attended = attention(q.flatten(1), k.flatten(1), v.flatten(1), heads)[back]
        mlp = F.gelu(linear(block.proj_mlp, tokens), approximate="tanh")[group]
        if not options.get("merge_mlp"):
            mlp = F.gelu(linear(block.proj_mlp, normed), approximate="tanh")
        out = sequence + gate * linear(block.proj_out, torch.cat([attended, mlp], 1))
        torch.testing.assert_close(seen["image"][i].double(), out[5:], atol=2e-5, rtol=0)
        torch.testing.assert_close(seen["text"][i].double(), out[:5], atol=2e-5, rtol=0)


@torch.no_grad()
def test_flux_double_block_is_its_slow_reference():
    model = ARCHITECTURES["Flux"].build()
    given = ARCHITECTURES["Flux"].given()
    tome.diffusion.apply(model, 0.5, use_rand=False)
    seen = {}
    attn = model.transformer_blocks[0].attn
    model.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(x=kwargs), with_kwargs=True
    )
    attn.register_forward_hook(lambda _, args, kwargs, output: seen.update(out=output), with_kwargs=True)
    inner = model.transformer_blocks[0].norm1
    inner.register_forward_hook(lambda _, args, output: seen.update(image=output[0]))
    model.transformer_blocks[0].norm1_context.register_forward_hook(lambda _, args, out: seen.update(text=out[0]))
    call(model, **given)
    for i in range(2):
        to = slow_groups(seen["x"]["hidden_states"][i], 8, 6, 2, 2, 24, [[0] * 4] * 3)
        tokens, group = slow_merge(seen["image"][i].double(), to)
        text, places = seen["text"][i].double(), torch.cat([given["txt_ids"], given["img_ids"][sorted(set(to))]])
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
            seen["out"][0][i].double(), linear(attn.to_out[0], both[5:])[group], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(seen["out"][1][i].double(), linear(attn.to_add_out, both[:5]), atol=1e-5, rtol=0)


# ---- architectures


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return ARCHITECTURES[request.param]


SELF_ATTENTION = (".attn1.to_q", ".attn.to_q", ".attn2.to_v")  # cross-attention's to_v sees the text


def test_every_architecture_attends_to_fewer_tokens_and_sees_all_elsewhere(architecture):
    model, given = architecture.build(), architecture.given()
    plain = call(model, **given)
    attention, mlp = Seen(model, *SELF_ATTENTION), Seen(model, ".ff", "proj_mlp")
    before = [seen.during(lambda: call(model, **given)) for seen in (attention, mlp)]
    tome.diffusion.apply(model, 0.5, seed=0)
    after = [seen.during(lambda: call(model, **given)) for seen in (attention, mlp)]
    left = {length: length - min(architecture.lengths) // 2 for length in architecture.lengths}
    assert set(architecture.lengths) <= set(before[0])
    assert after[0] == [left.get(tokens, tokens) for tokens in before[0]]
    assert after[1] == before[1]
    merged = call(model, **given)
    assert merged.shape == plain.shape
    assert not torch.allclose(merged, plain, atol=1e-4)
    tome.diffusion.remove(model)
    assert torch.equal(call(model, **given), plain)


def test_every_architecture_keeps_what_is_not_merged(architecture):
    """Where attention gives nothing, merging for it changes nothing."""
    model, given = architecture.build(), architecture.given()
    for name, module in model.named_modules():
        if name.endswith((".to_v", ".add_v_proj")):
            for parameter in module.parameters():
                torch.nn.init.zeros_(parameter)
    plain = call(model, **given)
    attention = Seen(model, *SELF_ATTENTION)
    before = attention.during(lambda: call(model, **given))
    tome.diffusion.apply(model, 0.75, seed=0)
    assert sum(attention.during(lambda: call(model, **given))) < sum(before)
    torch.testing.assert_close(call(model, **given), plain, atol=1e-5, rtol=1e-5)


def test_ratio_0_is_identity(architecture):
    model, given = architecture.build(), architecture.given()
    plain = call(model, **given)
    tome.diffusion.apply(model, 0, seed=0)
    assert torch.equal(call(model, **given), plain)


@pytest.mark.parametrize("name", ["SD", "SD3", "Flux"])
def test_half_precision_stays_what_it_is(name):
    model = ARCHITECTURES[name].build().to(torch.bfloat16)
    given = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v
             for k, v in ARCHITECTURES[name].given().items()}  # fmt: skip
    tome.diffusion.apply(model, 0.5, seed=0, merge_mlp=True)
    out = call(model, **given)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_sdxl_is_merged_where_its_attention_starts():
    model, given = ARCHITECTURES["SDXL"].build(), ARCHITECTURES["SDXL"].given()
    with pytest.raises(
        NotSupported, match="max_downsample is 1, but the attention of UNet2DConditionModel starts at 2"
    ):
        tome.diffusion.apply(model, max_downsample=1)
    outs = []
    for level in (None, 2, 3, 4):
        tome.diffusion.apply(model, max_downsample=level, seed=0)
        outs.append(call(model, **given))
        tome.diffusion.remove(model)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_lower_levels_only_when_asked():
    model, given = unet(**attends(levels=(True, True))), inputs()
    attention = Seen(model, ".attn1.to_q")
    for level, expected in ((None, {32, 16}), (1, {32, 16}), (2, {32, 8}), (4, {32, 8})):
        tome.diffusion.apply(model, 0.5, max_downsample=level, seed=0)
        assert set(attention.during(lambda: call(model, *given))) == expected
        tome.diffusion.remove(model)


def test_a_grid_smaller_than_a_window_is_left_alone():
    model, given = unet(**attends(levels=(True, True))), inputs(h=4, w=6)
    attention = Seen(model, ".attn1.to_q")
    tome.diffusion.apply(model, 0.5, sx=4, max_downsample=2, seed=0)
    assert set(attention.during(lambda: call(model, *given))) == {12, 6}


def test_keyword_calls_are_positional_calls():
    model, given, outs = unet(), inputs(), []
    names = ("sample", "timestep", "encoder_hidden_states")
    for args, kwargs in ((given, {}), ((), dict(zip(names, given, strict=True)))):
        tome.diffusion.apply(model, (0.6, 0.2), seed=0)
        outs.append(call(model, *args, **kwargs))
        tome.diffusion.remove(model)
    assert torch.equal(*outs)


def test_masks_of_tokens_with_more_dimensions():
    """What diffusers makes of masks: [B, 1, N], and per head and query [B * heads, N, N]."""
    from tome.diffusion.hooks import follow
    from tome.matching import Matching

    matching = Matching(torch.tensor([[0, 3], [2, 1]]), torch.tensor([[1, 2], [0, 3]]), torch.zeros(2, 2).long())
    wide = torch.arange(4.0 * 16).view(4, 4, 4)  # two samples of two heads
    expected = torch.stack([wide[i][kept][:, kept] for i, kept in enumerate([[0, 3], [0, 3], [2, 1], [2, 1]])])
    assert torch.equal(follow(wide, matching, queries=True, keys=True), expected)
    heads = wide.unflatten(0, (2, 2))
    assert torch.equal(follow(heads, matching, queries=True, keys=True), expected.unflatten(0, (2, 2)))
    keys = torch.stack([wide[i][:, kept] for i, kept in enumerate([[0, 3], [0, 3], [2, 1], [2, 1]])])
    assert torch.equal(follow(wide, matching, queries=False, keys=True), keys)
    one = torch.arange(8.0).view(2, 1, 4)
    assert torch.equal(follow(one, matching, queries=True, keys=True), torch.tensor([[[0.0, 3]], [[6, 5]]]))
    text = torch.rand(2, 1, 7)
    assert follow(text, matching, queries=True, keys=False) is text


@torch.no_grad()
def test_feed_forward_in_chunks():
    model, given = unet(), inputs(4)

    def out(**options):
        tome.diffusion.apply(model, 0.5, seed=0, **options)
        made = call(model, *given)
        tome.diffusion.remove(model)
        return made

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
    seen = Seen(model, ".ff")
    torch.testing.assert_close(out(merge_mlp=True), mlp)
    assert len(seen.tokens) == 2 * 3
    tome.diffusion.apply(model, 0.5, use_rand=False, merge_mlp=True)
    torch.testing.assert_close(call(model, *given), call(model, *given))  # chunks are counted anew in each call
    tome.diffusion.remove(model)
    chunk(2, 1)
    with pytest.raises(NotSupported, match="chunk the feed-forward along dim=0"):
        out(merge_mlp=True)


def test_ip_adapter_masks_are_refused_for_merged_queries_only():
    model, given = transformer(), (torch.randn(2, 16, 6, 8), torch.randn(2, 5, 12))
    masks = {"cross_attention_kwargs": {"ip_adapter_masks": [torch.ones(1, 1, 6, 8)]}}
    tome.diffusion.apply(model, use_rand=False)
    assert torch.equal(call(model, *given, **masks), call(model, *given))  # diffusers gives them to self-attention too
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, merge_crossattn=True)
    with pytest.raises(NotSupported, match="ip_adapter_masks need every token"):
        call(model, *given, **masks)


def test_the_ip_adapter_of_flux_gives_an_image_of_all_tokens():
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    model, given = ARCHITECTURES["Flux"].build(), ARCHITECTURES["Flux"].given()
    attention = model.transformer_blocks[0].attn
    attention.set_processor(FluxIPAdapterAttnProcessor(hidden_size=32, cross_attention_dim=12, num_tokens=(3,)))
    for linear in (attention.to_v, attention.add_v_proj, model.single_transformer_blocks[0].attn.to_v):
        torch.nn.init.zeros_(linear.weight)  # only the adapter says anything
        torch.nn.init.zeros_(linear.bias)
    given |= {"joint_attention_kwargs": {"ip_hidden_states": [torch.ones(2, 3, 12)]}}  # the same to every token
    plain = call(model, **given)
    adapter = Seen(model, "transformer_blocks.0.attn.to_q")
    tome.diffusion.apply(model, 0.5, seed=0)
    torch.testing.assert_close(call(model, **given), plain, atol=1e-5, rtol=0)
    assert adapter.tokens[0] == 24


def test_fused_projections():
    model, given = unet(), inputs()
    tome.diffusion.apply(model, seed=0)
    apart = call(model, *given)
    model.fuse_qkv_projections()
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, seed=0)
    torch.testing.assert_close(call(model, *given), apart)
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, kv_only=True)
    with pytest.raises(NotSupported, match=r"unfuse_qkv_projections\(\)"):
        call(model, *given)
    joint, given = ARCHITECTURES["SD3"].build(), ARCHITECTURES["SD3"].given()
    tome.diffusion.apply(joint, kv_only=True, seed=0)
    call(joint, **given)
    joint.fuse_qkv_projections()
    with pytest.raises(NotSupported, match=r"unfuse_qkv_projections\(\)"):
        call(joint, **given)


# ---- ControlNets and pipelines


def test_controlnets_of_a_pipeline_are_merged_too():
    net = ARCHITECTURES["ControlNet"]
    several = diffusers.MultiControlNetModel([net.build(), net.build()])
    for controlnet, parts in ((net.build(), lambda c: [c]), (several, lambda c: list(c.nets))):
        model = unet(mid_block_type="UNetMidBlock2DCrossAttn")
        image = torch.rand(1, 3, 16, 16)
        pipe = pipeline(model, controlnet)
        attention = [
            Seen(part, "blocks.0.attentions.0.transformer_blocks.0.attn1.to_q") for part in (model, *parts(controlnet))
        ]
        more = {"image": image if controlnet is not several else [image, image], "height": 16, "width": 16}
        more |= {"num_inference_steps": 2, "latents": torch.randn(1, 4, 8, 8)}
        pipe.vae_scale_factor = 2
        plain = generate(pipe, **more)
        tome.apply(pipe, ratio=0.5)
        for seen in attention:
            seen.tokens.clear()
        merged = generate(pipe, **more)
        assert [set(seen.tokens) for seen in attention] == [{32}] * len(attention)
        assert not torch.allclose(plain, merged, atol=1e-4)
        tome.remove(pipe)
        assert torch.equal(generate(pipe, **more), plain)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_controlnet_guides_a_merged_unet(scale):
    """One step of the pipeline is its models by hand, both merged: what the ControlNet gives is added in full."""
    net, model = ARCHITECTURES["ControlNet"].build(), unet(mid_block_type="UNetMidBlock2DCrossAttn")
    torch.manual_seed(0)
    image, latents, text = torch.rand(1, 3, 16, 16), torch.randn(1, 4, 8, 8), inputs(1)[2]
    pipe = pipeline(model, net)
    pipe.vae_scale_factor = 2
    seen = {}
    tome.apply(pipe, ratio=0.5, use_rand=False)
    hook = model.register_forward_hook(lambda module, args, output: seen.update(noise=output[0]))
    one = {"image": image, "height": 16, "width": 16, "num_inference_steps": 1, "latents": latents}
    generate(pipe, **one, controlnet_conditioning_scale=scale)
    hook.remove()
    both, texts, t = torch.cat([latents] * 2), torch.cat([-text, text]), pipe.scheduler.timesteps[0]
    with torch.no_grad():
        down, mid = net(both, t, texts, torch.cat([image] * 2), conditioning_scale=scale, return_dict=False)
        added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        torch.testing.assert_close(seen["noise"], model(both, t, texts, **added).sample)
        plain = model(both, t, texts).sample
        tome.remove(net)  # its blocks merged too
        alone, _ = net(both, t, texts, torch.cat([image] * 2), conditioning_scale=scale, return_dict=False)
    assert torch.allclose(seen["noise"], plain, atol=1e-4) == (scale == 0)
    assert torch.allclose(alone[-1], down[-1], atol=1e-4) == (scale == 0)


def test_a_pipeline_with_a_transformer():
    model = ARCHITECTURES["SD3"].build()
    pipe = SimpleNamespace(transformer=model, unet=None)
    plain = call(model, **ARCHITECTURES["SD3"].given())
    tome.diffusion.apply(pipe, seed=0)
    assert not torch.allclose(call(model, **ARCHITECTURES["SD3"].given()), plain, atol=1e-4)


def test_models_whose_forward_was_replaced_are_merged():
    """As accelerate does for offloading."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    model, given = unet(), inputs()
    for module in model.modules():
        add_hook_to_module(module, ModelHook())
    attention = Seen(model, ".attn1.to_q")
    tome.diffusion.apply(model, seed=0)
    assert set(attention.during(lambda: call(model, *given))) == {32}


# ---- over the steps


def test_ratio_changes_over_the_steps():
    model, (sample, _, text) = unet(), inputs()
    attention = Seen(model, ".attn1.to_q")
    ways = {(0.75, 0.25): [16, 24, 32, 48], (0, 0.5): [64, 56, 48, 32]}
    ways |= {(lambda progress: 0.5 if progress > 0.4 else 0.0): [64, 64, 32, 32]}
    for ratio, expected in ways.items():
        tome.diffusion.apply(model, ratio, seed=0)
        for timestep, tokens in zip((1000, 750, 500, 0), expected, strict=True):
            assert set(attention.during(lambda t=timestep: call(model, sample, t, text))) == {tokens}
        tome.diffusion.remove(model)


def test_ratio_changes_with_the_timesteps_of_flux():
    model, given = ARCHITECTURES["Flux"].build(), ARCHITECTURES["Flux"].given()
    attention = Seen(model, "transformer_blocks.0.attn.to_q")
    tome.diffusion.apply(model, (0.75, 0.25), seed=0)
    for timestep, tokens in ((1.0, 12), (0.5, 24), (0.0, 36)):
        given["timestep"] = torch.full((2,), timestep)
        assert attention.during(lambda: call(model, **given)) == [tokens, tokens + 5]


def test_a_function_that_returns_no_ratio_is_an_error():
    model, given = unet(), inputs()
    for wrong in (0.9, None, -0.1, float("nan")):
        tome.diffusion.apply(model, lambda progress, wrong=wrong: wrong)
        with pytest.raises(InputError, match=r"not a number from 0 to 0\.75"):
            call(model, *given)
        tome.diffusion.remove(model)


def test_matchings_are_shared_by_blocks_of_a_level(matched):
    model, given = unet(**attends(levels=(True, True)), mid_block_type="UNetMidBlock2DCrossAttn"), inputs()
    blocks = sum(name.endswith(".attn1") for name, _ in model.named_modules())
    for share, expected in ((False, blocks), (True, 2)):
        tome.diffusion.apply(model, max_downsample=4, share=share, seed=0)
        matched.clear()
        call(model, *given)
        assert len(matched) == expected
        tome.diffusion.remove(model)
    assert [shape[1] for shape in matched] == [64, 16]


def test_matchings_are_used_again_for_some_steps(matched):
    model, (sample, _, text) = unet(), inputs()
    tome.diffusion.apply(model, reuse_steps=2, share=True, seed=0)
    counts, outs = [], {}
    for timestep in (900, 700, 500, 300, 100, 900, 700):  # the last two: another image, though the pair was half done
        outs.setdefault(timestep, []).append(call(model, sample, timestep, text))
        counts.append(len(matched))
    assert counts == [1, 1, 2, 2, 3, 4, 4]
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, share=True, seed=0)
    first, second = (call(model, sample, timestep, text) for timestep in (900, 700))
    assert torch.equal(first, outs[900][0])
    assert not torch.allclose(second, outs[700][0], atol=1e-5)  # which had the tokens of the step before


def test_matchings_of_one_image_are_not_used_for_the_next_one_of_one_step_models(matched):
    model, (sample, _, text) = unet(), inputs()
    tome.diffusion.apply(model, reuse_steps=9, share=True, seed=0)
    for image, expected in ((0, 1), (1, 2), (2, 3)):
        for half in (text, -text):  # of classifier-free guidance: the same latents
            call(model, sample + image, 999, half)
            assert len(matched) == expected
    for image, timestep in enumerate((799, 599, 599, 399)):  # as PNDM looks twice: still the same image
        call(model, sample * image, timestep, text)
    assert len(matched) == 3


def test_matchings_are_not_used_again_for_another_size(matched):
    model = unet()
    tome.diffusion.apply(model, reuse_steps=9, share=True, seed=0)
    for sizes in ({"h": 8, "w": 4}, {"h": 4, "w": 8}, {"h": 4, "w": 8, "batch": 4}, {"h": 4, "w": 8, "batch": 4}):
        call(model, *inputs(**sizes))
    assert [shape[0] for shape in matched] == [2, 2, 4]


# ---- random choices


def test_a_seed_makes_it_repeatable_and_leaves_the_global_generator_alone():
    model, given = unet(), inputs()
    runs = []
    for seed in (0, 0, 1, torch.Generator().manual_seed(0)):
        torch.manual_seed(len(runs))
        state = torch.get_rng_state()
        tome.diffusion.apply(model, seed=seed)
        runs.append([call(model, *given) for _ in range(2)])
        tome.diffusion.remove(model)
        assert torch.equal(torch.get_rng_state(), state)
    first, again, other, generator = runs
    assert not torch.equal(*first)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, generator))
    assert not torch.equal(first[0], other[0])


def test_a_seed_chooses_on_the_cpu_whatever_the_device():
    model = tome.diffusion.apply(unet(), seed=3)
    assert model.tome_merging._generator(torch.device("cuda", 0)).device.type == "cpu"


def test_a_given_generator_is_used_up():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    call(tome.diffusion.apply(unet(), seed=generator), *inputs())
    assert not torch.equal(generator.get_state(), before)


def test_without_a_seed_the_global_generator_counts_at_the_first_call_only():
    model, given = unet(), inputs()
    runs = []
    for later in (1, 2):
        tome.diffusion.apply(model)
        torch.manual_seed(0)
        first = call(model, *given)
        torch.manual_seed(later)
        runs.append((first, call(model, *given)))
        tome.diffusion.remove(model)
    assert all(map(torch.equal, *runs))
    assert not torch.equal(*runs[0])


def test_all_samples_keep_the_same_places():
    """So that both halves of classifier-free guidance agree: same latents, same text, same result."""
    model, (sample, timestep, text) = unet(), inputs(1)
    tome.diffusion.apply(model)
    cond, uncond = call(model, sample.repeat(2, 1, 1, 1), timestep, text.repeat(2, 1, 1))
    torch.testing.assert_close(cond, uncond, atol=1e-6, rtol=0)


def test_an_odd_batch_turns_randomness_off_and_says_so_once():
    model, given = unet(), inputs(3)
    tome.diffusion.apply(model, use_rand=False)
    expected = call(model, *given)
    tome.diffusion.remove(model)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    tome.diffusion.apply(model, seed=generator)
    with pytest.warns(UserWarning, match="batch of 3.*turns use_rand off"):
        assert torch.equal(call(model, *given), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(model, *given)
    assert torch.equal(generator.get_state(), state)


# ---- copies, threads, gradients, graphs


COPIES = {"deep copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_merge_by_themselves(copied):
    model, given = unet(), inputs()
    plain = call(model, *given)
    tome.diffusion.apply(model, seed=0, reuse_steps=2)
    call(model, *given)
    twin = copied(model)
    expected = [call(model, *given) for _ in range(3)]
    tome.diffusion.remove(model)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    for out in expected:  # with the state of the generator and the matchings of the moment
        assert torch.equal(call(twin, *given), out)
    tome.diffusion.remove(twin)
    assert torch.equal(call(twin, *given), plain)


def test_two_models_in_two_threads():
    models, given = [unet(0), unet(1)], inputs()

    def outs(model, seed):
        tome.diffusion.apply(model, seed=seed)
        return [call(model, *given) for _ in range(5)]

    expected = [outs(model, seed) for seed, model in enumerate(models)]
    for model in models:
        tome.diffusion.remove(model)
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: outs(models[i], i)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert all(map(torch.equal, got[i], expected[i]))


@pytest.mark.parametrize(
    "options", [{"merge_mlp": True}, {"ratio": (0.75, 0), "share": True}, {"reuse_steps": 2}], ids=str
)
def test_gradients_are_those_of_recomputed_blocks(options):
    """Checkpointed blocks are computed a second time, and must merge the tokens of their call then."""
    model, (sample, _, text) = unet(), inputs()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.train()
        model.zero_grad()
        tome.diffusion.apply(model, seed=0, **options)
        losses = [model(sample + i, t, text).sample.square().sum() for i, t in enumerate((900, 800, 0))]
        call(model, -sample, 950, text)
        sum(losses).backward()
        tome.diffusion.remove(model)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"].abs().sum() > 0
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


@pytest.mark.parametrize("what", ["model", "reentrant", "attention"])
def test_what_cannot_be_recomputed_is_refused(what):
    """Better than gradients of other tokens."""
    from torch.utils.checkpoint import checkpoint

    model, given = unet().train(), inputs()
    run = model
    if what == "model":
        message = "UNet2DConditionModel is computed again in backward"
        run = lambda *args: checkpoint(model, *args, use_reentrant=False)  # noqa: E731
    elif what == "reentrant":
        message = "checkpoint single blocks, with use_reentrant=False"
        model.enable_gradient_checkpointing(lambda block, *args: checkpoint(block, *args, use_reentrant=True))
    else:
        message = r"a part of down_blocks\.0\.attentions\.0\.transformer_blocks\.0 is computed again"
    tome.diffusion.apply(model, seed=0)
    if what == "attention":
        block = model.down_blocks[0].attentions[0].transformer_blocks[0]
        attention = block.attn1
        block.attn1 = Checkpointed(attention)
    loss = run(*given).sample.sum()
    with pytest.raises(NotSupported, match=message):
        loss.backward()


class Checkpointed(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return torch.utils.checkpoint.checkpoint(self.inner, *args, use_reentrant=False, **kwargs)


def test_compiled_models():
    model, text = transformer(), torch.randn(2, 5, 12)
    steps = [torch.randn(2, 16, 6, 8) for _ in range(2)]
    plain = call(model, steps[0], text)
    tome.diffusion.apply(model, seed=0)
    expected = [call(model, x, text) for x in steps]
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, seed=0)
    compiled = torch.compile(model, backend="aot_eager")
    for x, out in zip(steps, expected, strict=True):
        torch.testing.assert_close(call(compiled, x, text), out)
    message = "Transformer2DModel is compiled, and would not notice; apply Token Merging first, then compile"
    for apply, late in ((tome.apply, compiled), (tome.diffusion.apply, SimpleNamespace(unet=compiled))):
        with pytest.raises(NotSupported, match=message):
            apply(late, ratio=0.5)
    with pytest.raises(InputError, match=r"write ratio=0\.5"):
        tome.apply(compiled, 0.5)
    assert tome.remove(compiled) is compiled
    torch.testing.assert_close(call(compiled, steps[0], text), plain)
    model.transformer_blocks[0].compile(backend="eager")
    with pytest.raises(NotSupported, match="compiled, and would not notice"):
        tome.diffusion.apply(model)
    torch.compiler.reset()


def test_wrapped_models():
    model, given = unet(), inputs()
    attention = Seen(model, ".attn1.to_q")
    vae = diffusers.AutoencoderKL(block_out_channels=[8], norm_num_groups=4)
    for wrapper in (torch.nn.Sequential(model), torch.nn.ModuleList([vae, torch.nn.Sequential(model)])):
        tome.apply(wrapper, ratio=0.5)
        assert set(attention.during(lambda: call(model, *given))) == {32}
        tome.remove(wrapper)
        assert set(attention.during(lambda: call(model, *given))) == {64}
        with pytest.raises(InputError, match="not applied to this"):
            tome.remove(wrapper)
        with tome.applied(wrapper, ratio=0.5):
            assert set(attention.during(lambda: call(model, *given))) == {32}
        assert set(attention.during(lambda: call(model, *given))) == {64}


def test_a_transformer_beside_a_diffusion_model_keeps_its_own_arguments():
    timm = pytest.importorskip("timm")
    vit = timm.models.vision_transformer.VisionTransformer(img_size=8, patch_size=2, embed_dim=8, depth=1, num_heads=1)
    both = torch.nn.ModuleDict({"unet": unet(), "vit": vit})
    tome.apply(both, r=2)
    tome.apply(both, ratio=0.5)
    tome.remove(both)
    for part in both.values():
        with pytest.raises(InputError, match="not applied"):
            tome.remove(part)


def test_warnings_point_at_the_line_of_the_user():
    model = unet()
    tome.apply(model, ratio=0.5)
    for apply in (tome.apply, tome.diffusion.apply):
        with pytest.warns(UserWarning, match="replace the old") as seen:
            apply(model, ratio=0.5)
        assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(UserWarning, match="odd batch") as seen, torch.no_grad():
        model(*inputs(3))
    assert [warning.filename for warning in seen] == [__file__]


def test_applied_twice_the_new_settings_count():
    model, given = unet(), inputs()
    tome.diffusion.apply(model, 0.25)
    attention = Seen(model, ".attn1.to_q")
    with pytest.warns(UserWarning, match="new settings replace the old"):
        tome.diffusion.apply(model, 0.75, seed=0)
    assert set(attention.during(lambda: call(model, *given))) == {16}
    tome.diffusion.remove(model)
    assert set(attention.during(lambda: call(model, *given))) == {64}


# ---- what is refused


BAD = {
    "ratio above": ({"ratio": 0.76}, "ratio is 0.76, not a number from 0 to 0.75"),
    "ratio of narrow windows": ({"ratio": 0.6, "sx": 1}, "from 0 to 0.5"),
    "ratio of windows of one": ({"ratio": 0.1, "sx": 1, "sy": 1}, "from 0 to 0"),
    "ratio below": ({"ratio": -0.1}, "ratio is -0.1"),
    "ratio nan": ({"ratio": float("nan")}, "ratio is nan"),
    "ratio text": ({"ratio": "0.5"}, "ratio is '0.5'"),
    "ratio bool": ({"ratio": True}, "ratio is True"),
    "ratio of three": ({"ratio": (0.1, 0.2, 0.3)}, "a tuple has two numbers"),
    "ratio of one bad": ({"ratio": (0.1, 0.9)}, "ratio is 0.9"),
    "sx": ({"sx": 0}, "sx is 0, not a positive integer"),
    "sy": ({"sy": 1.5}, "sy is 1.5, not a positive integer"),
    "max_downsample": ({"max_downsample": 0}, "max_downsample is 0"),
    "reuse_steps": ({"reuse_steps": 0}, "reuse_steps is 0"),
    "seed": ({"seed": 1.5}, "seed is 1.5"),
    "seed bool": ({"seed": True}, "seed is True"),
    "use_rand": ({"use_rand": "x"}, "use_rand is 'x', neither True nor False"),
    "share": ({"share": 1}, "share is 1, neither"),
    "ratio of a list of one": ({"ratio": [0.5]}, "a tuple has two numbers"),
    "nothing": ({"merge_attn": False}, "all off"),
    "kv_only": ({"kv_only": True, "merge_attn": False, "merge_mlp": True}, "merge_attn is off"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(options, message):
    model = unet()
    with pytest.raises(InputError, match=message) as raised:
        tome.diffusion.apply(model, **options)
    assert "\n" not in str(raised.value)
    assert not any(module._forward_pre_hooks for module in model.modules())


MISTAKES = {
    "positional": ((0.5,), {}, r"UNet2DConditionModel is a diffusion model; write ratio=0\.5"),
    "positional pair": (((0.6, 0.4),), {}, r"write ratio=\(0\.6, 0\.4\)"),
    "r": ((8,), {}, "it takes ratio and the arguments beside it"),
    "flops": ((), {"flops": 0.5}, "it takes ratio and the arguments beside it"),
    "unknown": (
        (),
        {"ratoi": 0.5},
        "ratoi: no argument of tome.apply, .*for diffusion models ratio, max_downsample, sx",
    ),
}


@pytest.mark.parametrize(("args", "options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_calls_of_tome_apply(args, options, message):
    with pytest.raises(InputError, match=message):
        tome.apply(unet(), *args, **options)


def test_an_unknown_argument_for_a_transformer_is_no_matter_of_diffusion():
    with pytest.raises(
        InputError, match=r"foo: no argument of tome\.apply, which are r, flops, tokens, prop_attn and un"
    ):
        tome.apply(torch.nn.Linear(1, 1), r=3, foo=1)


def test_numbers_of_numpy_and_lists_are_taken():
    np = pytest.importorskip("numpy")
    model, given = unet(), inputs()
    theirs = {"sx": np.int64(2), "sy": np.int32(2), "reuse_steps": np.int64(1), "max_downsample": np.int64(1)}
    for ratio, same in ((np.float32(0.5), 0.5), ([np.float64(0.6), 0.4], (0.6, 0.4)), (lambda p: np.float32(p), 0.5)):
        outs = []
        for options in ({"ratio": ratio, "seed": np.int64(3)} | theirs, {"ratio": same, "seed": 3}):
            tome.apply(model, **options)
            outs.append(call(model, *given))
            tome.remove(model)
        assert torch.equal(*outs)


def test_rotary_positions_indexed_in_another_way_are_refused():
    from tome.diffusion.hooks import PerSample

    table = PerSample(torch.rand(2, 5, 4))
    assert table[None, :, None, :].shape == (2, 5, 1, 4)
    for index in ((None, None, slice(None), slice(None)), 0, slice(None)):
        with pytest.raises(NotSupported, match="rotary positions indexed by"):
            table[index]


def unet_without_attention():
    types = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return diffusers.UNet2DModel(block_out_channels=(8,), norm_num_groups=4, add_attention=False, **types)


def test_models_without_anything_to_merge():
    with pytest.raises(NotSupported, match="UNet2DModel has no block that Token Merging knows, which are BasicTransf"):
        tome.diffusion.apply(unet_without_attention())
    with pytest.raises(NotSupported, match="neither a diffusion model nor a pipeline with one"):
        tome.diffusion.apply(SimpleNamespace(unet=None))
    with pytest.raises(NotSupported, match="Prior"):  # its tokens are no image
        tome.diffusion.apply(diffusers.PriorTransformer(num_attention_heads=1, attention_head_dim=8, num_layers=1))
    with pytest.raises(NotSupported, match="has nothing of what is to be merged"):
        tome.diffusion.apply(ARCHITECTURES["SD3"].build(), merge_attn=False, merge_crossattn=True)
    with pytest.raises(NotSupported, match="kv_only on FluxTransformer2DModel"):
        tome.diffusion.apply(ARCHITECTURES["Flux"].build(), kv_only=True)
    with pytest.raises(NotSupported, match="its timesteps do not tell the progress"):
        tome.diffusion.apply(ARCHITECTURES["Stable Video"].build(), (0.5, 0.2))
    with pytest.raises(InputError, match="not applied to this UNet2DConditionModel"):
        tome.diffusion.remove(unet())


def test_a_pipeline_is_left_alone_if_one_part_is_refused():
    model = unet()
    with pytest.raises(NotSupported, match="UNet2DModel has no block"):
        tome.diffusion.apply(SimpleNamespace(unet=model, controlnet=unet_without_attention()))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_calls_whose_grid_is_not_known():
    model, given = ARCHITECTURES["Flux"].build(), ARCHITECTURES["Flux"].given()
    tome.diffusion.apply(model, seed=0)
    two = given | {"hidden_states": torch.randn(2, 52, 8), "img_ids": torch.cat([ids(6, 8), ids(2, 2)])}
    with pytest.raises(NotSupported, match="img_ids are not those of one image"):
        call(model, **two)
    masked = given | {"joint_attention_kwargs": {"attention_mask": torch.ones(2, 1, 1, 53).bool()}}
    with pytest.raises(NotSupported, match=r"attention_mask in the joint attention of transformer_blocks\.0"):
        call(model, **masked)
    with pytest.raises(NotSupported, match="latents None: their rows and columns are not known"):
        model()
    model = tome.diffusion.apply(unet())
    with pytest.raises(InputError, match=r"call the UNet2DConditionModel, not its block down_blocks\.0\.att"):
        model.down_blocks[0](torch.randn(2, 16, 8, 8), torch.randn(2, 64), torch.randn(2, 5, 12))
    call(model, *inputs())
    with pytest.raises(NotSupported, match=r"has tokens \[2, 16, 16\], not \[batch, 8 x 8, channels\]"):
        model.down_blocks[0](torch.randn(2, 16, 4, 4), torch.randn(2, 64), torch.randn(2, 5, 12))
