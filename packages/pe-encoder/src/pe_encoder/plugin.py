"""Declare the models, weight layouts and block adapter of pe-encoder to plm-core.

This module imports neither torch nor timm.
"""

from __future__ import annotations

from pe_encoder.configs import (
    CORE,
    LANG,
    MEAN,
    MICRO_CLIP,
    MICRO_SPATIAL,
    PAPER,
    POOLED,
    SPATIAL,
    STD,
    TOKENS,
    Aligned,
    Core,
)
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
TOP1 = "zero-shot ImageNet-1k top-1 % (published)"


def _input(image_size: int) -> Input:
    """Return the input of the published models, which squash an image to a square."""
    return Input(
        size=(3, image_size, image_size),
        mean=MEAN,
        std=STD,
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode="squash",
    )


def _core(name: str, size: Core) -> Model:
    return Model(
        name=f"pe_core_{name}",
        family="pe",
        task="image-feature-extraction",
        builder="pe_encoder.model:vision_tower",
        config={**POOLED, **size.vision, "image_size": size.image_size},
        params=size.vision_params,
        input=_input(size.image_size),
        num_classes=size.vision["output_dim"],
        classifier="head",
        out_indices=(-3, -2, -1),
        license=LICENSE,
        paper=PAPER,
        pretrained=(
            Pretrained(tag="fb", repo=f"timm/{size.timm}", layout="timm", license=LICENSE, metrics={TOP1: size.top1}),
        ),
    )


def _aligned(kind: str, name: str, size: Aligned) -> Model:
    return Model(
        name=f"pe_{kind}_{name}",
        family="pe",
        task="image-feature-extraction",
        builder="pe_encoder.model:vision_tower",
        config={**TOKENS, "global_pool": "avg", **size.vision, "image_size": size.image_size},
        params=size.params,
        input=_input(size.image_size),
        num_classes=0,
        classifier="head",
        out_indices=(-3, -2, -1),
        license=LICENSE,
        paper=PAPER,
        pretrained=tuple(
            Pretrained(
                tag=tag,
                repo=f"timm/{size.timm}.{tag}",
                layout="timm",
                license=LICENSE,
                metrics=size.metrics if tag == "fb" else {},
                note="" if tag == "fb" else "tuned further with tiles of 448 pixels, for the Perception Language Model",
            )
            for tag in size.tags
        ),
    )


def _clip(name: str, size: Core) -> Model:
    return Model(
        name=f"pe_clip_{name}",
        family="pe",
        task="zero-shot-image-classification",
        builder="pe_encoder.clip:clip",
        config={"vision": {**POOLED, **size.vision, "image_size": size.image_size}, "text": size.text},
        params=size.params,
        input=_input(size.image_size),
        num_classes=0,
        classifier=None,
        first_conv="visual.patch_embed.proj",
        out_indices=(),
        license=LICENSE,
        paper=PAPER,
        pretrained=(
            Pretrained(
                tag="fb",
                repo=f"timm/{size.open_clip}",
                file="open_clip_model.safetensors",
                layout="open_clip",
                license=LICENSE,
                metrics={TOP1: size.top1},
            ),
        ),
    )


def _micro() -> Model:
    return Model(
        name="pe_micro_clip",
        family="pe",
        task="zero-shot-image-classification",
        builder="pe_encoder.clip:clip",
        config=MICRO_CLIP,
        params=244_225,
        input=_input(MICRO_CLIP["vision"]["image_size"]),
        num_classes=0,
        classifier=None,
        first_conv="visual.patch_embed.proj",
        out_indices=(),
        license=LICENSE,
        paper=PAPER,
        micro=Micro(recipe="pe_encoder.micro.clip:train", evaluate="pe_encoder.micro.clip:evaluate"),
        pretrained=(
            Pretrained(
                tag="plm_shapes",
                file="pe_encoder:weights/pe_micro_clip.safetensors",
                license=LICENSE,
                metrics={
                    "zero-shot top-1 % on unseen pairs of colour and shape, 80 classes": 93.25,
                    "text-to-image recall@1 % among 200 held-out captions": 88.5,
                },
                note="trained by plm retrain pe_micro_clip; see its model card",
            ),
        ),
    )


def _micro_spatial() -> Model:
    return Model(
        name="pe_micro_spatial",
        family="pe",
        task="image-feature-extraction",
        builder="pe_encoder.model:vision_tower",
        config={**MICRO_SPATIAL, "global_pool": "avg"},
        params=149_248,
        input=_input(MICRO_SPATIAL["image_size"]),
        num_classes=0,
        classifier="head",
        out_indices=(-3, -2, -1),
        license=LICENSE,
        paper=PAPER,
        micro=Micro(recipe="pe_encoder.micro.spatial:train", evaluate="pe_encoder.micro.spatial:evaluate"),
        pretrained=(
            Pretrained(
                tag="plm_shapes",
                file="pe_encoder:weights/pe_micro_spatial.safetensors",
                license=LICENSE,
                metrics={
                    "held-out mIoU % of ten colours and the background, linear probe": 30.8,
                    "held-out mIoU % of objects and the background, linear probe": 59.5,
                },
                note="trained by plm retrain pe_micro_spatial; see its model card",
            ),
        ),
    )


@hookimpl
def plm_models() -> list[Model]:
    """Declare the published models: the vision towers, and PE-Core with both towers."""
    return [
        *(_core(name, size) for name, size in CORE.items()),
        *(_aligned("lang", name, size) for name, size in LANG.items()),
        *(_aligned("spatial", name, size) for name, size in SPATIAL.items()),
        *(_clip(name, size) for name, size in CORE.items()),
        _micro(),
        _micro_spatial(),
    ]


@hookimpl
def plm_trainings() -> list[Training]:
    """Declare the trainings of both towers."""
    return [
        Training(
            name="pe-contrastive",
            help="Train both towers of a CLIP on images with captions.",
            data="captions",
            train="pe_encoder.recipes.contrastive:run",
            configs="pe_encoder.recipes.tables:CONTRASTIVE",
            presets={"pe_micro_*": "micro", "*": "default"},
            micro="pe_micro_clip",
            options=("pretrained", "weights"),
        ),
        Training(
            name="pe-video",
            help="Train both towers of a CLIP on videos with captions.",
            data="captions",
            train="pe_encoder.recipes.video:run",
            configs="pe_encoder.recipes.tables:VIDEO",
            presets={"pe_micro_*": "micro", "*": "default"},
            micro="pe_micro_clip",
            options=("pretrained", "weights"),
        ),
        Training(
            name="pe-spatial",
            help="Align a vision tower for dense tasks, from a PE-Core and a teacher of regions.",
            data="images",
            train="pe_encoder.recipes.spatial:run",
            configs="pe_encoder.recipes.spatial_tables:SPATIAL",
            presets={
                "pe_micro_*": "micro",
                "pe_spatial_t16_*": "tiny",
                "pe_spatial_s16_*": "small",
                "pe_spatial_b16_*": "base",
                "pe_spatial_l14_*": "large",
                "pe_spatial_g14_*": "paper",
            },
            micro="pe_micro_spatial",
            options=("pretrained",),
        ),
        Training(
            name="pe-distill",
            help="Train both towers of a CLIP to match images and captions as a larger one does.",
            data="captions",
            train="pe_encoder.recipes.distillation:run",
            configs="pe_encoder.recipes.tables:DISTILL",
            presets={"pe_micro_*": "micro", "*": "default"},
            micro="pe_micro_clip",
            options=("pretrained", "weights"),
        ),
    ]


@hookimpl
def plm_weight_layouts() -> list[WeightLayout]:
    """Declare the weight layouts that can be read and written."""
    rules = "pe_encoder.layouts:"
    vision, text, clip = ("pe_encoder.model:VisionTower",), ("pe_encoder.text:TextTower",), ("pe_encoder.clip:CLIP",)
    return [
        WeightLayout(
            name="official", models=vision, rules=rules + "official", help="the original's PE-Lang and -Spatial"
        ),
        WeightLayout(
            name="official-clip",
            models=vision,
            rules=rules + "official_in_clip",
            part="visual.",
            help="visual.* of the original's PE-Core",
        ),
        WeightLayout(name="timm", models=vision, rules=rules + "timm", help="timm's vit_pe_*"),
        WeightLayout(
            name="open_clip",
            models=vision,
            rules=rules + "open_clip_trunk",
            part="visual.trunk.",
            help="visual.trunk.* of open_clip's PE-Core",
        ),
        WeightLayout(
            name="official", models=text, rules=rules + "official_text", help="the original's names, and CLIP's"
        ),
        WeightLayout(
            name="open_clip",
            models=text,
            rules=rules + "open_clip_text",
            part="text.",
            help="text.* of open_clip's PE-Core",
        ),
        WeightLayout(name="official", models=clip, rules=rules + "official_clip", help="the original's PE-Core"),
        WeightLayout(name="open_clip", models=clip, rules=rules + "open_clip", help="open_clip's PE-Core"),
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """Declare how model transforms reach into a vision tower."""
    tower = {
        "patch_size": 8,
        "width": 48,
        "layers": 2,
        "heads": 3,
        "output_dim": 10,
        "image_size": 64,
        "attn_pooler_heads": 3,
    }
    return [
        BlockAdapter(
            name="pe",
            models=("pe_encoder.model:VisionTower",),
            view="pe_encoder.blocks:view",
            example=("pe_encoder.model:vision_tower", tower),
            input_size=(3, 64, 64),
        ),
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Declare what models with a text tower do for images."""
    return [
        Command(
            name="zeroshot",
            help="Choose the text that fits an image or a video best.",
            implementation="pe_encoder.cli.zeroshot:zeroshot",
        ),
        Command(
            name="search",
            help="Find the images that fit a text best, by embeddings of plm embed.",
            implementation="pe_encoder.cli.search:search",
        ),
        Command(
            name="segment",
            help="Paint the parts of an image that agree with texts.",
            implementation="pe_encoder.cli.segment:segment",
        ),
    ]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the demonstrations of the micro model."""
    return [
        TourStop(name="pe-zeroshot", title="Texts choose among pictures", run="pe_encoder.tour:zero_shot", order=36),
        TourStop(name="pe-text-map", title="Where a text is in a picture", run="pe_encoder.tour:text_map", order=37),
        TourStop(name="pe-features", title="Features of a layer as colours", run="pe_encoder.tour:features", order=38),
    ]
