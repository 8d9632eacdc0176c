"""Declare the models, weight layouts and commands of gazelle to plm-core.

This module imports neither torch nor timm.
"""

from __future__ import annotations

from gazelle.configs import IMAGE_SIZE, INOUT_PARAMS, KINDS, MEAN, MICRO, MICRO_SIZE, PAPER, SIZES, STD, Size
from plm_core.hookspecs import (
    BlockAdapter,
    Command,
    Input,
    Micro,
    Model,
    Pretrained,
    TourStop,
    Training,
    WeightLayout,
    hookimpl,
)

LICENSE = "Apache-2.0"


def _released(name: str, size: Size, inout: bool) -> Model:
    return Model(
        name=name,
        family="gazelle",
        task="other",
        builder="gazelle.builders:gaze_lle",
        config={"backbone": size.backbone, "inout": inout},
        params=size.params + (INOUT_PARAMS if inout else 0),
        input=Input(size=(3, IMAGE_SIZE, IMAGE_SIZE), mean=MEAN, std=STD, crop_pct=1.0, crop_mode="squash"),
        num_classes=0,
        classifier=None,
        first_conv="backbone.model.patch_embed.proj",
        out_indices=(),
        license=LICENSE,
        paper=PAPER,
    )


def _micro() -> Model:
    return Model(
        name="gazelle_micro_shapes",
        family="gazelle",
        task="other",
        builder="gazelle.builders:gaze_lle",
        config=MICRO,
        params=342_689,
        input=Input(
            size=(3, MICRO_SIZE, MICRO_SIZE), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, crop_mode="squash"
        ),
        num_classes=0,
        classifier=None,
        first_conv="backbone.model.patch_embed.proj",
        out_indices=(),
        license=LICENSE,
        paper=PAPER,
        needs=("hiera",),
        micro=Micro(recipe="gazelle.micro.shapes:train", evaluate="gazelle.micro.shapes:evaluate"),
        pretrained=(
            Pretrained(
                tag="plm_shapes",
                file="gazelle:weights/gazelle_micro_shapes.safetensors",
                license=LICENSE,
                metrics={"held-out AUC": 0.980, "held-out L2": 0.036, "held-out in/out AP": 0.999},
                note="trained by plm retrain gazelle_micro_shapes; see its model card",
            ),
        ),
    )


@hookimpl
def plm_models() -> list[Model]:
    """Declare the released variants, and a micro model for the world of shapes."""
    released = [
        _released(f"gazelle_dinov2_{short}{kind}", size, inout)
        for short, size in SIZES.items()
        for kind, inout in KINDS.items()
    ]
    return [*released, _micro()]


@hookimpl
def plm_trainings() -> list[Training]:
    """Declare the trainings on GazeFollow and on VideoAttentionTarget."""
    presets = {"gazelle_micro_*": "micro", "gazelle_*": "paper"}
    return [
        Training(
            name="gaze-follow",
            help="Train a decoder of gaze on GazeFollow.",
            data="gazefollow",
            train="gazelle.recipes.following:follow",
            configs="gazelle.recipes.tables:FOLLOW",
            presets=presets,
            model="gazelle_dinov2_vitb14",
            micro="gazelle_micro_shapes",
            options=("pretrained", "weights"),
        ),
        Training(
            name="gaze-vat",
            help="Train a model of gaze further on VideoAttentionTarget, also to tell whether targets are inside.",
            data="vat",
            train="gazelle.recipes.following:video",
            configs="gazelle.recipes.tables:VIDEO",
            presets=presets,
            model="gazelle_dinov2_vitb14_inout",
            micro="gazelle_micro_shapes",
            options=("pretrained", "weights"),
        ),
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """Declare the way into the blocks of the backbone."""
    backbone = {"embed_dim": 64, "depth": 2, "num_heads": 4}
    return [
        BlockAdapter(
            name="gazelle",
            models=("gazelle.model:GazeLLE",),
            view="gazelle.blocks:view",
            embed="gazelle.blocks:embed",
            example=(
                "gazelle.builders:gaze_lle",
                {
                    "backbone": "vit_tiny_patch16_224",
                    "img_size": 64,
                    "dim": 32,
                    "num_layers": 1,
                    "inout": True,
                    "backbone_options": backbone,
                },
            ),
            input_size=(3, 64, 64),
        )
    ]


@hookimpl
def plm_weight_layouts() -> list[WeightLayout]:
    """Declare the names of the release, and those of a model with the DINOv2 of torch.hub."""
    return [
        WeightLayout(
            name="release",
            models=("gazelle.decoder:Decoder",),
            rules="gazelle.layouts:release",
            help="Gaze-LLE's released files, which hold the decoder alone",
        ),
        WeightLayout(
            name="official",
            models=("gazelle.model:GazeLLE",),
            rules="gazelle.layouts:official",
            help="Gaze-LLE with the DINOv2 of torch.hub, whose mask token is not used",
        ),
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Declare what models of gaze do."""
    return [
        Command(
            name="gaze",
            help="Show where each person in photos and videos is looking.",
            implementation="gazelle.cli.gaze:gaze",
        ),
        Command(
            name="gaze-app",
            help="Show a page on which you drop a photo and see where each person looks.",
            implementation="gazelle.cli.app:app",
        ),
        Command(
            name="gaze-eval",
            help="Compute the published scores of a model on a dataset of gaze.",
            implementation="gazelle.cli.evaluate:evaluate",
        ),
    ]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the demonstration of the micro model."""
    return [TourStop(name="gazelle", title="Where is each figure looking?", run="gazelle.tour:stop", order=39)]
