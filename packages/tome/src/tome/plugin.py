"""The declarations of tome for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Command, Input, Micro, Model, Pretrained, TourStop, Transform, hookimpl
from plm_core.shapes.words import SHAPES


@hookimpl
def plm_transforms() -> list[Transform]:
    """Declare Token Merging."""
    return [
        Transform(
            name="tome",
            apply="tome.api:apply",
            remove="tome.api:remove",
            example={"r": 8},
            help="Token Merging: merge the r most similar pairs of tokens in each block (r=8); see tome.apply.",
        )
    ]


@hookimpl
def plm_models() -> list[Model]:
    """Declare the micro model, a plain ViT from timm."""
    return [
        Model(
            name="tome_micro_shapes",
            family="vit",
            builder="timm.models.vision_transformer:VisionTransformer",
            config={
                "img_size": 48,
                "patch_size": 4,
                "embed_dim": 96,
                "depth": 6,
                "num_heads": 3,
                "mlp_ratio": 2,
            },
            params=468_392,
            input=Input(size=(3, 48, 48), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, fixed=True),
            num_classes=len(SHAPES),
            classifier="head",
            out_indices=(1, 3, 5),
            license="Apache-2.0",
            paper="arXiv 2010.11929",
            micro=Micro(recipe="tome.micro.shapes:train", evaluate="tome.micro.shapes:evaluate"),
            pretrained=(
                Pretrained(
                    tag="plm_shapes",
                    file="tome:weights/tome_micro_shapes.safetensors",
                    license="Apache-2.0",
                    labels=SHAPES,
                    metrics={"held-out shapes top-1 %": 98.05},
                    note="trained by plm retrain tome_micro_shapes; see its model card",
                ),
            ),
        )
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Declare ``plm paint-tokens``."""
    return [
        Command(
            name="paint-tokens",
            help="Paint which patches of an image are merged into one token.",
            implementation="tome.cli:paint_tokens",
        )
    ]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the tour stop: groups on a photo, and what merging costs and saves."""
    return [TourStop(name="tome", title="Fewer tokens, the same weights", run="tome.tour:merging", order=40)]
