"""Declare the models, weight layouts and recipes of hiera to plm-core.

This module imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hiera.configs import (
    DETECTION_MEAN,
    DETECTION_STD,
    HIERADET,
    IMAGE,
    MICRO_ABSWIN,
    MICRO_DETECTOR,
    MICRO_DIGITS,
    MICRO_GREY,
    MICRO_MOTIONS,
    PAPER,
    SIZES,
    VIDEO,
    VIDEO_SIZES,
    Size,
)
from plm_core.hookspecs import (
    VIDEO_MEAN,
    VIDEO_STD,
    BlockAdapter,
    Input,
    Micro,
    Model,
    Pretrained,
    TourStop,
    Training,
    WeightLayout,
    hookimpl,
)
from plm_core.shapes.words import MOTIONS, SHAPES


def _published(repo: str, data: str, metrics: dict[str, float]) -> tuple[Pretrained, ...]:
    """Declare the two sets of weights that Meta published for each model: finetuned, and the pretrained encoder."""
    return (
        Pretrained(
            tag=f"mae_{data}_ft_{data}",
            repo=f"{repo}.mae_{data}_ft_{data}",
            layout="official",
            license="CC-BY-NC-4.0",
            metrics=metrics,
        ),
        Pretrained(
            tag=f"mae_{data}",
            repo=f"{repo}.mae_{data}",
            layout="official",
            license="CC-BY-NC-4.0",
            num_classes=0,
            untrained=("head.",),
            note="encoder of the MAE pretraining; norm and classifier are untrained",
        ),
    )


def _image(name: str, size: Size) -> Model:
    return Model(
        name=f"hiera_image_{name}_224",
        family="hiera",
        builder="hiera.model:classifier",
        config=size.config,
        params=size.image_params,
        input=Input(crop_pct=0.875),
        out_indices=(0, 1, 2, 3),
        license="Apache-2.0",
        paper=PAPER,
        pretrained=_published(
            f"facebook/hiera_{name}_224", "in1k", {"ImageNet-1k top-1 % (published)": size.image_top1}
        ),
    )


def _video(name: str, size: Size) -> Model:
    metrics = None if size.video_top1 is None else {"Kinetics-400 top-1 % (published)": size.video_top1}
    return Model(
        name=f"hiera_video_{name}_16x224",
        family="hiera",
        task="video-classification",
        builder="hiera.model:classifier",
        config={**size.config, **VIDEO},
        params=size.video_params,
        input=Input(frames=16, stride=4, mean=VIDEO_MEAN, std=VIDEO_STD, crop_pct=0.875),
        num_classes=400,
        first_conv=None,  # timm adapts the channels of images only; Hiera.resample does so for clips
        out_indices=(0, 1, 2, 3),
        license="Apache-2.0",
        paper=PAPER,
        pretrained=_published(f"facebook/hiera_{name}_16x224", "k400", metrics) if metrics else (),
    )


def _micro(
    name: str,
    *,
    params: int,
    config: Mapping[str, Any],
    labels: Sequence[str],
    metrics: Mapping[str, float],
    size: int = 32,
    tag: str = "plm_shapes",
    frames: int | None = None,
    recipe: str = "",
    **facts: Any,
) -> Model:
    """Declare a model that ``hiera.micro`` trains on bundled data and whose weights are shipped as package data.

    Args:
        name: The part of the model's name after ``hiera_micro_``.
        params: Number of parameters.
        config: Keyword arguments of the builder.
        labels: Class names.
        metrics: Held-out scores of the shipped weights.
        size: Height and width of the input in pixels.
        tag: Tag of the shipped weights.
        frames: Number of frames in a clip; None for images.
        recipe: Training function as "module:function"; by default ``train`` in ``hiera.micro.<name>``.
        **facts: Further fields of the declaration; they replace the defaults, which are an image classifier's.
    """
    recipe = recipe or f"hiera.micro.{name}:train"
    fields: dict[str, Any] = {"builder": "hiera.model:classifier", "out_indices": (0, 1, 2)}
    return Model(
        name=f"hiera_micro_{name}",
        family="hiera",
        config=config,
        params=params,
        input=Input(size=(3, size, size), frames=frames, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0),
        num_classes=len(labels),
        license="Apache-2.0",
        paper=PAPER,
        pretrained=(
            Pretrained(
                tag=tag,
                file=f"hiera:weights/hiera_micro_{name}.safetensors",
                license="Apache-2.0",
                labels=tuple(labels),
                metrics=metrics,
                note=f"trained by plm retrain hiera_micro_{name}; see its model card",
            ),
        ),
        micro=Micro(recipe=recipe, evaluate=f"{recipe.partition(':')[0]}:evaluate"),
        **fields | facts,
    )


def _detector(name: str, params: int) -> Model:
    # SAM 2 has no base size. HieraDet's default windows and positions are those of base_plus, which is as deep as base.
    return Model(
        name=f"hiera_detector_{name}_1024",
        family="hiera",
        task="object-detection",
        builder="hiera.detection:hiera_detector",
        config={"trunk": HIERADET.get(name, IMAGE[name])},
        params=params,
        input=Input(size=(3, 1024, 1024), mean=DETECTION_MEAN, std=DETECTION_STD),
        num_classes=80,
        classifier=DETECTOR_HEADS,
        first_conv=None,
        out_indices=(),
        license="Apache-2.0",
        paper=PAPER,
    )


# The layers of a Mask R-CNN whose outputs are those of its classes and the background.
DETECTOR_HEADS = (
    "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask_predictor.mask_fcn_logits",
)

# The sizes of which the papers train detectors, with the numbers of parameters.
DETECTOR_SIZES = {"base": 72_661_493, "base_plus": 90_920_309, "large": 234_516_773}

DIGITS = tuple("0123456789")

MICRO = (
    _micro(
        "digits",
        params=170_338,
        config={"img_size": (32, 32), **MICRO_DIGITS},
        labels=DIGITS,
        metrics={"held-out digits top-1 %": 99.44},
        tag="sklearn_digits",
    ),
    _micro(
        "abswin",
        params=166_906,
        config=MICRO_ABSWIN,
        labels=DIGITS,
        metrics={"held-out placed digits top-1 % at 32 px": 83.33, "held-out placed digits top-1 % at 64 px": 46.11},
        tag="sklearn_digits",
    ),
    _micro(
        "plain",
        params=167_962,
        config={**MICRO_ABSWIN, "abs_win_pos_embed": False},
        labels=DIGITS,
        metrics={"held-out placed digits top-1 % at 32 px": 86.67, "held-out placed digits top-1 % at 64 px": 37.78},
        tag="sklearn_digits",
        recipe="hiera.micro.abswin:train_plain",
    ),
    _micro(
        "shapes",
        params=164_584,
        config=MICRO_GREY,
        labels=SHAPES,
        metrics={"held-out grey shapes top-1 %": 83.55},
        out_indices=(0, 1),
    ),
    _micro(
        "motions",
        params=177_393,
        config=MICRO_MOTIONS,
        labels=MOTIONS,
        metrics={"held-out motions top-1 %": 99.1},
        frames=8,
        task="video-classification",
        first_conv=None,
    ),
    _micro(
        "detector",
        params=432_189,
        config={"trunk": HIERADET["micro"], **MICRO_DETECTOR},
        size=96,
        labels=SHAPES,
        metrics={"held-out shapes box mAP@[.5:.95]": 0.872, "held-out shapes mask mAP@[.5:.95]": 0.858},
        builder="hiera.detection:hiera_detector",
        task="object-detection",
        classifier=DETECTOR_HEADS,
        first_conv=None,
        out_indices=(),
    ),
)


@hookimpl
def plm_models() -> list[Model]:
    """Declare the paper's image and video models, two smaller video models, detectors, and the micro models."""
    images = [_image(name, size) for name, size in SIZES.items()]
    videos = [_video(name, size) for name, size in SIZES.items()]
    detectors = [_detector(name, params) for name, params in DETECTOR_SIZES.items()]
    return [*images, *videos, *detectors, *MICRO]


@hookimpl
def plm_weight_layouts() -> list[WeightLayout]:
    """Declare the weight layouts that can be read and written. Our own tensor names are timm's."""
    models, mae = ("hiera.model:Hiera",), ("hiera.mae:MaskedAutoencoderHiera",)
    trunk, fpn = ("hiera.hieradet:HieraDet",), ("hiera.dense.fpn:HieraDetFpn",)
    rules = "hiera.layouts:"
    return [
        WeightLayout(name="timm", models=models, help="timm's hiera_*; the same as our own"),
        WeightLayout(name="official", models=models, rules=rules + "official", help="the original repository"),
        WeightLayout(
            name="transformers", models=models, rules=rules + "transformers", help="HieraForImageClassification"
        ),
        WeightLayout(
            name="transformers-backbone", models=models, rules=rules + "transformers_backbone", help="HieraModel"
        ),
        WeightLayout(name="official", models=mae, help="the original repository; the same as our own"),
        WeightLayout(name="transformers", models=mae, rules=rules + "transformers_mae", help="HieraForPreTraining"),
        WeightLayout(name="timm", models=trunk, help="timm's sam2_hiera_*; the same as our own with num_classes=0"),
        WeightLayout(name="sam2", models=trunk, rules=rules + "sam2_trunk", help="the trunk inside SAM 2"),
        WeightLayout(
            name="sam2-file",
            models=trunk,
            rules=rules + "sam2_file_trunk",
            part="image_encoder.trunk.",
            help="image_encoder.trunk.* of a SAM 2 checkpoint",
        ),
        WeightLayout(
            name="transformers",
            models=trunk,
            rules=rules + "transformers_sam2_trunk",
            part="vision_encoder.backbone.",
            help="vision_encoder.backbone.* of Sam2Model",
        ),
        WeightLayout(
            name="sam2",
            models=fpn,
            rules=rules + "sam2",
            part="image_encoder.",
            help="image_encoder.* of a SAM 2 checkpoint",
        ),
        WeightLayout(name="sam2-encoder", models=fpn, rules=rules + "sam2_encoder", help="SAM 2's image encoder alone"),
        WeightLayout(
            name="transformers",
            models=fpn,
            rules=rules + "transformers_sam2",
            part="vision_encoder.",
            help="vision_encoder.* of Sam2Model",
        ),
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """Declare how model transforms reach into a Hiera."""
    example = ("hiera_micro_digits", {"pretrained": True})
    return [BlockAdapter(name="hiera", models=("hiera.model:Hiera",), view="hiera.blocks:view", example=example)]


@hookimpl
def plm_trainings() -> list[Training]:
    """Declare the papers' trainings: masked pretraining, and finetuning for classes and for detection."""
    classes = "plm_core.runs.classification:train_"

    def recipe(
        name: str,
        help: str,
        data: str,
        train: str,
        table: str,
        base: str,
        micro: str,
        sizes: Iterable[str],
        *options: str,
    ) -> Training:
        return Training(
            name=f"hiera-{name}",
            help=help,
            data=data,
            train=train,
            configs=f"hiera.recipes:{table}",
            presets=_presets(base, sizes),
            model=base,
            micro=micro,
            options=options,
        )

    image, video, detector = "hiera_image_base_224", "hiera_video_base_16x224", "hiera_detector_base_1024"
    shapes, motions = "hiera_micro_shapes", "hiera_micro_motions"
    pretrain, start = "hiera.recipes.pretraining:run", ("pretrained", "weights", "transforms")
    return [
        recipe("pretrain", "Pretrain on images with MAE.", "images", pretrain, "PRETRAIN_IMAGE", image, shapes, SIZES),
        recipe(
            "pretrain-video",
            "Pretrain on videos with MAE.",
            "videos",
            pretrain,
            "PRETRAIN_VIDEO",
            video,
            motions,
            VIDEO_SIZES,
        ),
        recipe(
            "finetune",
            "Finetune a classifier of images by the Hiera paper.",
            "images",
            f"{classes}classifier",
            "FINETUNE_IMAGE",
            image,
            shapes,
            SIZES,
            *start,
        ),
        recipe(
            "finetune-video",
            "Finetune a classifier of videos by the Hiera paper.",
            "videos",
            f"{classes}video_classifier",
            "FINETUNE_VIDEO",
            video,
            motions,
            VIDEO_SIZES,
            *start,
        ),
        recipe(
            "detect",
            "Train a detector with masks.",
            "coco",
            "hiera.recipes.detecting:run",
            "DETECT",
            detector,
            "hiera_micro_detector",
            DETECTOR_SIZES,
            "pretrained",
            "weights",
        ),
    ]


def _presets(base: str, sizes: Iterable[str]) -> dict[str, str]:
    """Return the preset of each size by the name of its model, which is like that of the base size."""
    head, tail = base.split("base")
    return {f"{head}{size}{tail}": size for size in sizes} | {"hiera_micro_*": "micro"}


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the demonstrations of the micro models."""
    return [
        TourStop(name="hiera-digits", title="A model created by name reads digits", run="hiera.tour:digits", order=20),
        TourStop(
            name="hiera-features", title="Features of a photo, stage by stage", run="hiera.tour:features", order=30
        ),
        TourStop(
            name="hiera-abswin", title="Window positions at twice the input size", run="hiera.tour:abs_win", order=32
        ),
        TourStop(name="hiera-detection", title="Shapes detected and segmented", run="hiera.tour:detection", order=34),
    ]
