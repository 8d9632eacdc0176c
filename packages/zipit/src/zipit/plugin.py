"""The declarations of zipit for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Command, Input, Merger, Micro, Model, Pretrained, TourStop, hookimpl
from plm_core.shapes.words import SHAPES

FAMILY = "zipit"
TASKS = {"a": (SHAPES[:4], 99.90), "b": (SHAPES[4:], 100.0)}
"""The shapes that each micro model knows, and its held-out score."""


@hookimpl
def plm_mergers() -> list[Merger]:
    """Declare ZipIt! and the baselines that it is compared with."""
    return [
        Merger(
            name="zipit",
            merge="zipit.api:merge",
            help="ZipIt!: the most similar features of the models become one, also within a model; see zipit.merge.",
        ),
        Merger(
            name="permute",
            merge="zipit.api:permute",
            help="The features of each model are assigned to those of the first, and the weights averaged.",
        ),
        Merger(name="average", merge="zipit.api:average", help="The weights are averaged as they are."),
    ]


@hookimpl
def plm_models() -> list[Model]:
    """Declare two micro models that know different shapes, and partial merges.

    The default of a partial merge is a small one, and a config.json names the models of another.
    """
    return [*(_micro(letter, shapes, score) for letter, (shapes, score) in TASKS.items()), _merged()]


def _merged() -> Model:
    small = ("test_resnet", {"num_classes": 10})
    return Model(
        name="zipit_merged",
        family="zipit",
        builder="zipit.models:merged",
        config={"models": (small, small), "until": "layer3.0.conv1"},
        params=684_900,
        task="other",
        input=Input(size=(3, 160, 160), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.95, interpolation="bilinear"),
        num_classes=20,
        classifier=None,
        first_conv="trunk.conv1.0",
        license="Apache-2.0",
        paper="arXiv 2305.03053",
    )


def _micro(letter: str, shapes: tuple[str, ...], score: float) -> Model:
    return Model(
        name=f"zipit_micro_shapes_{letter}",
        family=FAMILY,
        builder="zipit.micro.networks:small_resnet",
        config={"channels": (16, 32, 64, 128)},
        params=325_092,
        input=Input(size=(3, 48, 48), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0),
        num_classes=len(shapes),
        first_conv="conv1",
        classifier="fc",
        out_indices=(1, 2, 3),
        license="Apache-2.0",
        paper="arXiv 1512.03385",
        micro=Micro(recipe=f"zipit.micro.shapes:train_{letter}", evaluate=f"zipit.micro.shapes:evaluate_{letter}"),
        pretrained=(
            Pretrained(
                tag="plm_shapes",
                file=f"zipit:weights/zipit_micro_shapes_{letter}.safetensors",
                license="Apache-2.0",
                labels=shapes,
                metrics={"held-out top-1 % of its four shapes": score},
                note=f"trained by plm retrain zipit_micro_shapes_{letter}; see its model card",
            ),
        ),
    )


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the stop of the tour: two networks that know different shapes become one."""
    return [TourStop(name="zipit", title="Two networks become one", run="zipit.tour:stop", order=60)]


@hookimpl
def plm_commands() -> list[Command]:
    """Declare ``plm merge``."""
    return [
        Command(
            name="merge",
            help="Merge models without training, and compare the result with them.",
            implementation="zipit.cli:merge",
        )
    ]
