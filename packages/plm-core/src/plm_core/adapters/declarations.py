"""The declarations of block adapters for timm, torchvision, transformers and open_clip.

This module imports nothing heavy.

Each declaration names the class that holds the blocks, by the module that defines it. `plm_core.blocks.find` reaches
that class inside any model built around it. The examples are tiny and have about 64 patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plm_core.hookspecs import BlockAdapter

IMAGE = (3, 64, 64)  # channels, height, width
SPECTROGRAM = (128, 32)  # frames, mel bins
CLIP = (8, 3, 32, 32)  # frames, channels, height, width
Options = Mapping[str, Any]


def block_adapters() -> list[BlockAdapter]:
    """Return all block adapters for timm, torchvision, transformers and open_clip.

    For a family that cannot be supported, the view function raises NotSupported with the reason.
    """
    return [*_timm(), *_torchvision(), *_transformers(), *_open_clip()]


def _timm() -> list[BlockAdapter]:
    vit: Options = {
        "img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10
    }  # fmt: skip
    swin: Options = {"img_size": 64, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": (1, 1)}
    hiera: Options = {"img_size": (64, 64), "embed_dim": 24, "num_heads": 1, "stages": (1, 1, 1, 1)}

    def adapter(name: str, view: str, example: str, options: Options, *models: str) -> BlockAdapter:
        return BlockAdapter(
            name=f"timm-{name}",
            models=tuple(f"timm.models.{model}" for model in models),
            view=f"plm_core.adapters.{view}",
            example=(example, options),
            input_size=IMAGE,
        )

    return [
        adapter(
            "vit",
            "timm:vision_transformer",
            "vit_tiny_patch16_224",
            vit,
            "vision_transformer:VisionTransformer",
        ),
        adapter("eva", "timm:eva", "vit_pe_core_tiny_patch16_384", vit, "eva:Eva"),
        adapter("beit", "timm:beit", "beit_base_patch16_224", vit, "beit:Beit"),
        adapter(
            "swin",
            "windowed:swin",
            "swin_tiny_patch4_window7_224",
            {**swin, "num_heads": (3, 6)},
            "swin_transformer:SwinTransformer",
            "swin_transformer_v2:SwinTransformerV2",
        ),
        adapter("hiera", "windowed:hiera", "hiera_tiny_224", hiera, "hiera:Hiera"),
    ]


def _torchvision() -> list[BlockAdapter]:
    vit: Options = {
        "image_size": 64, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96
    }  # fmt: skip
    swin: Options = {
        "patch_size": [4, 4], "embed_dim": 24, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4]
    }  # fmt: skip
    return [
        BlockAdapter(
            name="torchvision-vit",
            models=("torchvision.models.vision_transformer:VisionTransformer",),
            view="plm_core.adapters.torchvision:vision_transformer",
            embed="plm_core.adapters.pooling:before_head",
            example=("torchvision.models:VisionTransformer", vit),
            input_size=IMAGE,
        ),
        BlockAdapter(
            name="torchvision-swin",
            models=(
                "torchvision.models.swin_transformer:SwinTransformer",
                "torchvision.models.video.swin_transformer:SwinTransformer3d",
            ),
            view="plm_core.adapters.windowed:swin",
            embed="plm_core.adapters.pooling:before_head",
            example=("torchvision.models:SwinTransformer", swin),
            input_size=IMAGE,
        ),
    ]


def _transformers() -> list[BlockAdapter]:
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    image: Options = {**size, "image_size": 64, "patch_size": 8}
    registers: Options = {**image, "num_register_tokens": 4}
    film: Options = {**size, "image_size": 32, "num_frames": 8}
    strides: Options = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8}
    sound: Options = {**size, **strides, "max_length": SPECTROGRAM[0], "num_mel_bins": SPECTROGRAM[1]}
    swin: Options = {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [1, 1], "num_heads": [1, 2]}
    hiera: Options = {"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}

    def adapter(
        name: str,
        model: str,
        view: str,
        embed: str,
        example: str,
        options: Options,
        input_size: tuple[int, ...] = IMAGE,
        *other_models: str,
    ) -> BlockAdapter:
        return BlockAdapter(
            name=f"transformers-{name}",
            models=tuple(f"transformers.models.{path}" for path in (model, *other_models)),
            view=f"plm_core.adapters.{view}",
            embed=f"plm_core.adapters.pooling:{embed}",
            example=("plm_core.adapters.transformers:example", {"model": example, **options}),
            input_size=input_size,
        )

    vit, tower, dinov2 = (f"transformers:{view}" for view in ("vit", "tower", "dinov2"))
    cls, cls_patches = "class_token", "class_token_and_patches"
    return [
        adapter("vit", "vit.modeling_vit:ViTModel", vit, cls, "ViTForImageClassification", image),
        adapter("deit", "deit.modeling_deit:DeiTModel", vit, cls, "DeiTForImageClassification", image),
        adapter(
            "ast",
            "audio_spectrogram_transformer.modeling_audio_spectrogram_transformer:ASTModel",
            vit,
            "pooler",
            "ASTForAudioClassification",
            sound,
            SPECTROGRAM,
        ),
        adapter(
            "vivit",
            "vivit.modeling_vivit:VivitModel",
            vit,
            cls,
            "VivitForVideoClassification",
            {**film, "tubelet_size": [2, 8, 8]},
            CLIP,
        ),
        adapter("clip", "clip.modeling_clip:CLIPVisionModel", tower, "pooler", "CLIPVisionModel", image),
        adapter("siglip", "siglip.modeling_siglip:SiglipVisionModel", tower, "pooler", "SiglipVisionModel", image),
        adapter(
            "dinov2",
            "dinov2.modeling_dinov2:Dinov2Model",
            dinov2,
            cls_patches,
            "Dinov2ForImageClassification",
            image,
            IMAGE,
            "dinov2.modeling_dinov2:Dinov2Backbone",
        ),
        adapter(
            "dinov2-registers",
            "dinov2_with_registers.modeling_dinov2_with_registers:Dinov2WithRegistersModel",
            dinov2,
            cls_patches,
            "Dinov2WithRegistersForImageClassification",
            registers,
            IMAGE,
            "dinov2_with_registers.modeling_dinov2_with_registers:Dinov2WithRegistersBackbone",
        ),
        adapter(
            "dinov3",
            "dinov3_vit.modeling_dinov3_vit:DINOv3ViTModel",
            "transformers:dinov3",
            "pooler",
            "DINOv3ViTModel",
            registers,
            IMAGE,
            "dinov3_vit.modeling_dinov3_vit:DINOv3ViTBackbone",
        ),
        adapter(
            "videomae",
            "videomae.modeling_videomae:VideoMAEModel",
            "transformers:videomae",
            "videomae",
            "VideoMAEForVideoClassification",
            {**film, "patch_size": 8, "tubelet_size": 2},
            CLIP,
        ),
        adapter(
            "swin",
            "swin.modeling_swin:SwinModel",
            "windowed:swin",
            "pooler",
            "SwinForImageClassification",
            swin,
            IMAGE,
            "swin.modeling_swin:SwinBackbone",
            "swinv2.modeling_swinv2:Swinv2Model",
            "swinv2.modeling_swinv2:Swinv2Backbone",
        ),
        adapter(
            "hiera",
            "hiera.modeling_hiera:HieraModel",
            "windowed:hiera",
            "pooler",
            "HieraForImageClassification",
            hiera,
            IMAGE,
            "hiera.modeling_hiera:HieraBackbone",
        ),
    ]


def _open_clip() -> list[BlockAdapter]:
    tower: Options = {
        "image_size": 64, "patch_size": 8, "width": 48, "layers": 2, "heads": 3, "mlp_ratio": 2.0, "output_dim": 32
    }  # fmt: skip
    return [
        BlockAdapter(
            name="open_clip-vit",
            models=("open_clip.transformer:VisionTransformer",),
            view="plm_core.adapters.open_clip:vision_transformer",
            embed="plm_core.adapters.open_clip:embedding",
            example=("open_clip.transformer:VisionTransformer", tower),
            input_size=IMAGE,
        )
    ]
