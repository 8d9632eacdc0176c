"""What plm-core itself declares: the commands, the adapters of third parties' families, the tour's first stop."""

from __future__ import annotations

from plm_core.adapters.declarations import block_adapters
from plm_core.hookspecs import BlockAdapter, Command, TourStop, hookimpl


@hookimpl
def plm_commands() -> list[Command]:
    """The commands that every installation has."""
    return [
        Command(
            name="list", help="List models by name, timm's wildcards allowed.", implementation="plm_core.cli.list:app"
        ),
        Command(name="info", help="Everything declared about a model.", implementation="plm_core.cli.info:info"),
        Command(
            name="doctor", help="Check the installation and every plug-in.", implementation="plm_core.cli.doctor:doctor"
        ),
        Command(name="matrix", help="What combines with what.", implementation="plm_core.cli.matrix:matrix"),
        Command(
            name="bench", help="Time a model with and without transforms.", implementation="plm_core.cli.bench:bench"
        ),
        Command(name="predict", help="Classify images.", implementation="plm_core.cli.predict:predict"),
        Command(
            name="convert",
            help="Turn weights into safetensors of a layout.",
            implementation="plm_core.cli.convert:convert",
        ),
        Command(
            name="push", help="Publish a model folder on the Hugging Face Hub.", implementation="plm_core.cli.push:push"
        ),
        Command(
            name="retrain", help="Train a shipped micro model again.", implementation="plm_core.cli.retrain:retrain"
        ),
        Command(name="tour", help="See the hub at work on embedded data.", implementation="plm_core.cli.tour:tour"),
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """Adapters of the families that no distribution of ours owns."""
    return block_adapters()


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """What is installed."""
    return [TourStop(name="installed", title="What is installed", run="plm_core.tools.tour:installed", order=0)]
