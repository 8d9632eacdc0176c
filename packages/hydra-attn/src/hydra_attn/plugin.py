"""The declarations of hydra-attn for the registry."""

from __future__ import annotations

from plm_core.hookspecs import Transform, hookimpl


@hookimpl
def plm_transforms() -> list[Transform]:
    """Declare Hydra Attention."""
    return [
        Transform(
            name="hydra",
            apply="hydra_attn.api:apply",
            remove="hydra_attn.api:remove",
            example={"layers": 1},
            help="Hydra Attention: attention that is linear in the tokens, in the last two blocks (layers=2); for "
            "models that are trained with it; see hydra_attn.apply.",
        )
    ]
