"""The declarations of hydra-attn for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Command, Input, Micro, Model, Pretrained, TourStop, Training, Transform, hookimpl
from plm_core.shapes.words import SHAPES

PAPER = "arXiv 2209.07484"
FAMILY = "hydra"
"""The family of the models that take the layers with Hydra as an argument."""
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
    """Declare timm's ViT and DeiT with Hydra in the last two of their 12 blocks, without weights, and a micro model."""
    return [_micro()] + [
        Model(
            name=f"hydra_{family}_{size}_patch16_224",
            family=FAMILY,
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


def _micro() -> Model:
    return Model(
        name="hydra_micro_shapes",
        family=FAMILY,
        builder="hydra_attn.models:vision_transformer",
        config={"img_size": 48, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_ratio": 2},
        params=468_392,
        input=Input(size=(3, 48, 48), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, fixed=True),
        num_classes=len(SHAPES),
        classifier="head",
        out_indices=(1, 3, 5),
        license="Apache-2.0",
        paper=PAPER,
        micro=Micro(recipe="hydra_attn.micro.shapes:train", evaluate="hydra_attn.micro.shapes:evaluate"),
        pretrained=(
            Pretrained(
                tag="plm_shapes",
                file="hydra_attn:weights/hydra_micro_shapes.safetensors",
                license="Apache-2.0",
                labels=SHAPES,
                metrics={"held-out shapes top-1 %": 92.65},
                note="trained by plm retrain hydra_micro_shapes; see its model card",
            ),
        ),
    )


@hookimpl
def plm_trainings() -> list[Training]:
    """Declare the paper's training, and distillation from the model with the softmax."""
    return [
        Training(
            name="hydra-finetune",
            help="Train a classifier with Hydra Attention in some of its blocks.",
            data="images",
            train="hydra_attn.finetuning:run_finetune",
            configs="hydra_attn.finetuning:PRESETS",
            presets={"hydra_micro_*": "micro", "*": "deit_last2"},
            micro="hydra_micro_shapes",
            options=("pretrained", "weights", "transforms"),
        ),
        Training(
            name="hydra-distill",
            help="Train a finetuned classifier to do with Hydra Attention what it does with the softmax.",
            data="images",
            train="hydra_attn.finetuning:run_distill",
            configs="hydra_attn.finetuning:DISTILL_PRESETS",
            presets={"hydra_micro_*": "micro", "*": "default"},
            micro="hydra_micro_shapes",
            options=("pretrained",),
        ),
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Declare ``plm paint-hydra``."""
    return [
        Command(
            name="paint-hydra",
            help="Paint which patches speak for a class in the last Hydra layer.",
            implementation="hydra_attn.cli:paint_hydra",
        )
    ]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the tour stop: time against tokens, and what Hydra attends to."""
    return [TourStop(name="hydra", title="Attention that is linear in tokens", run="hydra_attn.tour:stop", order=45)]
