"""The declarations of tome for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Command, Input, Micro, Model, Pretrained, TourStop, Training, Transform, hookimpl
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
def plm_trainings() -> list[Training]:
    """Declare the paper's finetuning while tokens merge."""
    return [
        Training(
            name="tome-finetune",
            help="Finetune a classifier while its tokens merge.",
            data="images",
            train="tome.finetuning:run",
            configs="tome.finetuning:PRESETS",
            presets={
                "deit_tiny_*": "deit_tiny_r13",
                "deit_small_*": "deit_small_r13",
                "vit_base_*": "mae_base_r16",
                "vit_large_*": "mae_large_r8",
                "vit_huge_*": "mae_huge_r7",
                "tome_micro_*": "micro",
            },
            micro="tome_micro_shapes",
            options=("pretrained", "weights"),
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
