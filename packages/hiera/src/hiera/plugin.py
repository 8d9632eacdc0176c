"""What hiera declares to the hub; imports neither torch nor timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hiera.configs import IMAGE, MICRO_ABSWIN, MICRO_DIGITS, MICRO_GREY, MICRO_MOTIONS, VIDEO
from plm_core.hookspecs import (
    BlockAdapter,
    Command,
    Input,
    Micro,
    Model,
    Pretrained,
    TourStop,
    WeightLayout,
    hookimpl,
)

PAPER = "arXiv 2306.00989"
# name: (parameters, ImageNet-1k top-1 in % after MAE pretraining and finetuning, as the paper's table 2 reports it)
IMAGE_FACTS = {
    "tiny": (27_910_216, 82.8),
    "small": (35_008_072, 83.8),
    "base": (51_524_968, 84.5),
    "base_plus": (69_896_616, 85.2),
    "large": (213_739_912, 86.1),
    "huge": (672_779_752, 86.9),
}


# name: (parameters, Kinetics-400 top-1 in %, 3 x 5 views; the paper has no tiny and small)
VIDEO_FACTS: dict[str, tuple[int, float | None]] = {
    "tiny": (27_477_808, None),
    "small": (34_575_664, None),
    "base": (51_092_560, 84.0),
    "base_plus": (69_392_240, 85.0),
    "large": (213_091_600, 87.3),
    "huge": (671_627_664, 87.8),
}


def _published(repo: str, data: str, metrics: dict[str, float]) -> tuple[Pretrained, ...]:
    """The two sets of weights that Meta published of each model: finetuned, and the encoder of the pretraining."""
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


def _image(size: str) -> Model:
    params, top1 = IMAGE_FACTS[size]
    return Model(
        name=f"hiera_image_{size}_224",
        family="hiera",
        builder="hiera.builders:classifier",
        config=IMAGE[size],
        params=params,
        input=Input(crop_pct=0.875),
        out_indices=(0, 1, 2, 3),
        license="Apache-2.0",
        paper=PAPER,
        pretrained=_published(f"facebook/hiera_{size}_224", "in1k", {"ImageNet-1k top-1 % (published)": top1}),
    )


def _video(size: str) -> Model:
    params, top1 = VIDEO_FACTS[size]
    metrics = {"Kinetics-400 top-1 % (published)": top1} if top1 is not None else None
    return Model(
        name=f"hiera_video_{size}_16x224",
        family="hiera",
        task="video-classification",
        builder="hiera.builders:classifier",
        config={**IMAGE[size], **VIDEO},
        params=params,
        input=Input(frames=16, mean=(0.45,) * 3, std=(0.225,) * 3, crop_pct=0.875),
        num_classes=400,
        out_indices=(0, 1, 2, 3),
        license="Apache-2.0",
        paper=PAPER,
        pretrained=_published(f"facebook/hiera_{size}_16x224", "k400", metrics) if metrics else (),
    )


def _micro(
    what: str,
    params: int,
    config: Mapping[str, Any],
    size: int,
    labels: Sequence[str],
    metrics: Mapping[str, float],
    tag: str = "plm_shapes",
    frames: int | None = None,
    **facts: Any,
) -> Model:
    """A model that its own module trains on embedded data, shipped as package data."""
    name = f"hiera_micro_{what}"
    return Model(
        name=name,
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
                file=f"hiera:weights/{name}.safetensors",
                license="Apache-2.0",
                labels=tuple(labels),
                metrics=metrics,
                note=f"trained by plm retrain {name}; see its model card",
            ),
        ),
        **{
            "builder": "hiera.builders:classifier",
            "out_indices": (0, 1, 2),
            "micro": Micro(recipe=f"hiera.micro.{what}:train", evaluate=f"hiera.micro.{what}:evaluate"),
            **facts,
        },
    )


# plm_core.shapes' words, written out since it imports NumPy
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
MOTIONS = ("still", "left", "right", "up", "down", "grow", "shrink", "spin", "blink")

MICRO = (
    _micro(
        "digits",
        170_338,
        {"img_size": (32, 32), **MICRO_DIGITS},
        32,
        "0123456789",
        {"held-out digits top-1 %": 99.44},
        tag="sklearn_digits",
    ),
    _micro(
        "abswin",
        166_906,
        MICRO_ABSWIN,
        32,
        "0123456789",
        {"held-out placed digits top-1 % at 32 px": 83.33, "held-out placed digits top-1 % at 64 px": 46.11},
        tag="sklearn_digits",
    ),
    _micro(
        "plain",
        167_962,
        {**MICRO_ABSWIN, "abs_win_pos_embed": False},
        32,
        "0123456789",
        {"held-out placed digits top-1 % at 32 px": 86.67, "held-out placed digits top-1 % at 64 px": 37.78},
        tag="sklearn_digits",
        micro=Micro(recipe="hiera.micro.abswin:train_plain", evaluate="hiera.micro.abswin:evaluate"),
    ),
    _micro(
        "shapes",
        164_584,
        MICRO_GREY,
        32,
        SHAPES,
        {"held-out grey shapes top-1 %": 83.55},
        out_indices=(0, 1),
    ),
    _micro(
        "motions",
        177_393,
        MICRO_MOTIONS,
        32,
        MOTIONS,
        {"held-out motions top-1 %": 99.1},
        frames=8,
        task="video-classification",
    ),
    _micro(
        "detector",
        432_189,
        {},
        96,
        SHAPES,
        {"held-out shapes box mAP@[.5:.95]": 0.872, "held-out shapes mask mAP@[.5:.95]": 0.858},
        builder="hiera.detection:micro_detector",
        task="object-detection",
        classifier=None,
        first_conv=None,
        out_indices=(),
    ),
)


@hookimpl
def plm_models() -> list[Model]:
    """The paper's image and video models, two smaller ones for video, and the micro models."""
    return [*map(_image, IMAGE), *map(_video, VIDEO_FACTS), *MICRO]


@hookimpl
def plm_weight_layouts() -> list[WeightLayout]:
    """Timm's names are our own; the original's and transformers' are mapped."""
    models, mae = ("hiera.model:Hiera",), ("hiera.mae:MaskedAutoencoderHiera",)
    trunk, fpn = ("hiera.hieradet:HieraDet",), ("hiera.hieradet:HieraDetFpn",)
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
        WeightLayout(name="sam2", models=fpn, rules=rules + "sam2", help="image_encoder.* of a SAM 2 checkpoint"),
        WeightLayout(name="sam2-encoder", models=fpn, rules=rules + "sam2_encoder", help="SAM 2's image encoder alone"),
        WeightLayout(
            name="transformers", models=fpn, rules=rules + "transformers_sam2", help="vision_encoder.* of Sam2Model"
        ),
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """How transforms reach into a Hiera."""
    example = ("hiera_micro_digits", {"pretrained": True})
    return [BlockAdapter(name="hiera", models=("hiera.model:Hiera",), view="hiera.blocks:view", example=example)]


@hookimpl
def plm_commands() -> list[Command]:
    """The papers' trainings."""
    return [Command(name="hiera", help="Train Hiera by the papers' recipes.", implementation="hiera.cli:train")]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """What the micro models do."""
    return [
        TourStop(name="hiera-digits", title="A model by name reads digits", run="hiera.tour:digits", order=20),
        TourStop(name="hiera-features", title="What its stages see in a photo", run="hiera.tour:features", order=30),
        TourStop(
            name="hiera-abswin", title="A window's positions at twice the size", run="hiera.tour:abs_win", order=32
        ),
        TourStop(name="hiera-detection", title="Shapes found and cut out", run="hiera.tour:detection", order=34),
    ]
