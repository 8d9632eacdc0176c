"""The declarations of plm-core: its commands, the adapters of other libraries' families, the tour's last stop."""

from __future__ import annotations

from plm_core.adapters.declarations import block_adapters
from plm_core.hookspecs import BlockAdapter, Command, TourStop, Training, Transform, hookimpl


@hookimpl
def plm_commands() -> list[Command]:
    """Return the commands that every installation has."""
    return [
        Command(
            name="list", help="List all models, or those that match a pattern.", implementation="plm_core.cli.list:app"
        ),
        Command(
            name="info", help="Show everything that is declared about a model.", implementation="plm_core.cli.info:info"
        ),
        Command(
            name="doctor", help="Check the installation and every plug-in.", implementation="plm_core.cli.doctor:doctor"
        ),
        Command(
            name="matrix",
            help="Show which transforms, mergers and scorers work on which models.",
            implementation="plm_core.cli.matrix:matrix",
        ),
        Command(
            name="bench", help="Time a model with and without transforms.", implementation="plm_core.cli.bench:bench"
        ),
        Command(
            name="predict",
            help="Predict the classes of images or videos, or the objects in images.",
            implementation="plm_core.cli.predict:predict",
        ),
        Command(
            name="embed",
            help="Write the embeddings of all images in a folder to a file.",
            implementation="plm_core.cli.embed:app",
        ),
        Command(
            name="evaluate",
            help="Compute the accuracy of a classifier on labelled images or videos.",
            implementation="plm_core.cli.evaluate:evaluate",
        ),
        Command(
            name="convert",
            help="Convert weights to a safetensors file in another layout.",
            implementation="plm_core.cli.convert:convert",
        ),
        Command(
            name="push", help="Publish a model folder on the Hugging Face Hub.", implementation="plm_core.cli.push:push"
        ),
        Command(
            name="train",
            help="Train a model by a recipe, and leave a model folder.",
            implementation="plm_core.cli.train:train",
        ),
        Command(
            name="retrain",
            help="Train a shipped micro model again, from scratch.",
            implementation="plm_core.cli.retrain:retrain",
        ),
        Command(
            name="tour",
            help="Show the installed packages at work, on data that ships with them.",
            implementation="plm_core.cli.tour:tour",
        ),
    ]


@hookimpl
def plm_transforms() -> list[Transform]:
    """Return the transform that makes linear layers and convolutions faster on the CPU."""
    return [
        Transform(
            name="packed",
            apply="plm_core.packing:apply",
            remove="plm_core.packing:remove",
            example={"tune": False},
            help="Linear layers as fast as the processor allows, on the CPU in float32; see plm_core.packing.apply.",
        )
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """Return the adapters of the model families of other libraries."""
    return block_adapters()


@hookimpl
def plm_trainings() -> list[Training]:
    """Return the recipe for any classifier."""
    return [
        Training(
            name="finetune",
            help="Finetune any classifier of images, of timm or of a plug-in.",
            data="images",
            train="plm_core.runs.classification:train_classifier",
            configs="plm_core.runs.classification:PRESETS",
            presets={"*_micro_*": "micro", "test_*": "micro", "*": "default"},
            micro="test_vit",
            options=("pretrained", "weights", "transforms"),
        )
    ]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Return the stop of the transform ``packed``, and the last stop, which shows what is installed."""
    return [
        TourStop(name="packed", title="The same layers, multiplied faster", run="plm_core.tour:packed", order=50),
        TourStop(name="installed", title="What is installed", run="plm_core.tour:installed", order=900),
    ]
