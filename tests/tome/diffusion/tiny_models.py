"""Tiny diffusion models with random weights, their inputs, and a pipeline of each kind that the tests need."""

import copy
from dataclasses import dataclass

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

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
    """Return the block types of a UNet with attention at some levels, and none in the middle."""
    types = {"down_block_types": tuple(f"CrossAttnDownBlock{kind}" if has else f"DownBlock{kind}" for has in levels)}
    if up:
        types["up_block_types"] = tuple(f"CrossAttnUpBlock{kind}" if has else f"UpBlock{kind}" for has in levels[::-1])
    return types


def ids(h, w):
    """Return Flux's (image, row, column) of packed tokens."""
    rows, columns = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    return torch.stack([torch.zeros(h, w), rows, columns], -1).flatten(0, 1)


@dataclass
class Architecture:
    """A tiny model of diffusers and its arguments, which are values or shapes of random tensors."""

    model: str
    config: dict
    arguments: dict
    lengths: tuple = (64,)
    """Lengths of the sequences in attention that contain an image whose tokens merge."""

    def build(self, **changes):
        torch.manual_seed(0)
        model = getattr(diffusers, self.model)(**self.config | changes).eval()
        for parameter in model.parameters():
            if not parameter.any():  # zeros, such as in the outputs of a ControlNet, would hide the rest
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    def inputs(self):
        torch.manual_seed(1)
        return {k: torch.randn(v) if isinstance(v, tuple) else copy.deepcopy(v) for k, v in self.arguments.items()}


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
    return out if torch.is_tensor(out) else out[-1]  # a ControlNet's output for its lowest level


def transformer(seed=0, **changes):
    """Return the smallest model with a block: one BasicTransformerBlock on 6 x 8 tokens, 2 heads of 8 channels."""
    torch.manual_seed(seed)
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 16, "norm_num_groups": 8}
    return diffusers.Transformer2DModel(**config | {"num_layers": 1, "cross_attention_dim": 12} | changes).eval()


class TokenCounter:
    """A counter of the tokens that enter modules, which are selected by the end of their name."""

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


def pipeline(model, controlnet=None):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    vae = diffusers.AutoencoderKL(block_out_channels=[8], norm_num_groups=4, latent_channels=4, **blocks)
    kind = diffusers.StableDiffusionPipeline if controlnet is None else diffusers.StableDiffusionControlNetPipeline
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    more = {} if controlnet is None else {"controlnet": controlnet}
    scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = kind(vae=vae, unet=model, scheduler=scheduler, requires_safety_checker=False, **parts, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, **more):
    latents, _, text = inputs(1)
    size = {"height": 8, "width": 8, "output_type": "latent", "num_inference_steps": 4}
    size["latents"] = latents
    return pipe(prompt_embeds=text, negative_prompt_embeds=-text, **size | more).images
