"""The declarations of zipit for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Command, Input, Merger, Model, hookimpl


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
    """Declare partial merges. The default is a small one, and a config.json names the models of another."""
    small = ("test_resnet", {"num_classes": 10})
    return [
        Model(
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
    ]


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
