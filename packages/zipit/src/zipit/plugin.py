"""The declarations of zipit for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Merger, hookimpl


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
