"""What tome declares to the hub."""

from __future__ import annotations

from plm_core.hookspecs import Transform, hookimpl


@hookimpl
def plm_transforms() -> list[Transform]:
    """Token Merging."""
    return [
        Transform(
            name="tome",
            apply="tome.api:apply",
            remove="tome.api:remove",
            help="Token Merging: merge the r most similar pairs of tokens in each block (r=8), or see tome.apply.",
        )
    ]
