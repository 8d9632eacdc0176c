"""Declare the models, weight layouts and commands of gazelle to plm-core.

This module imports neither torch nor timm.
"""

from __future__ import annotations

from gazelle.configs import IMAGE_SIZE, INOUT_PARAMS, KINDS, MEAN, PAPER, SIZES, STD, Size
from plm_core.hookspecs import BlockAdapter, Command, Input, Model, WeightLayout, hookimpl

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


@hookimpl
def plm_models() -> list[Model]:
    """Declare the released variants."""
    return [
        _released(f"gazelle_dinov2_{short}{kind}", size, inout)
        for short, size in SIZES.items()
        for kind, inout in KINDS.items()
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


def _gaze() -> Command:
    return Command(
        name="gaze",
        help="Show where each person in photos and videos is looking.",
        implementation="gazelle.cli.gaze:gaze",
    )


@hookimpl
def plm_commands() -> list[Command]:
    """Declare what models of gaze do."""
    return [_gaze(), _page()]


def _page() -> Command:
    return Command(
        name="gaze-app",
        help="Show a page on which you drop a photo and see where each person looks.",
        implementation="gazelle.cli.app:app",
    )
