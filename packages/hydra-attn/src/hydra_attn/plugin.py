"""The declarations of hydra-attn for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Input, Model, Transform, hookimpl

PAPER = "arXiv 2209.07484"
# Width, heads and number of parameters; all have 12 blocks.
SIZES = {"tiny": (192, 3, 5_717_416), "small": (384, 6, 22_050_664), "base": (768, 12, 86_567_656)}
# The families differ in the mean and the standard deviation of their images.
NORMS = {"deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}


@hookimpl
def plm_transforms() -> list[Transform]:
    """Declare Hydra Attention."""
    return [
        Transform(
            name="hydra",
            apply="hydra_attn.api:apply",
            remove="hydra_attn.api:remove",
            example={"layers": 1},
            help="Hydra Attention: attention that is linear in the tokens, in the last two blocks (layers=2); for "
            "models that are trained with it; see hydra_attn.apply.",
        )
    ]


@hookimpl
def plm_models() -> list[Model]:
    """Declare timm's ViT and DeiT with Hydra in the last two of their 12 blocks, without weights."""
    return [
        Model(
            name=f"hydra_{family}_{size}_patch16_224",
            family="hydra",
            builder="hydra_attn.models:vision_transformer",
            config={"patch_size": 16, "embed_dim": width, "depth": 12, "num_heads": heads},
            params=params,
            input=Input(size=(3, 224, 224), mean=mean, std=std, crop_pct=0.9, fixed=True),
            classifier="head",
            license="Apache-2.0",
            paper=PAPER,
        )
        for family, (mean, std) in NORMS.items()
        for size, (width, heads, params) in SIZES.items()
    ]
