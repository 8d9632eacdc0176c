"""How a hierarchical trunk spreads its blocks over stages; Hiera and HieraDet share the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plm_core import InputError


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """The place and the sizes of one block.

    Attributes:
        stage: Its stage, from 0.
        attends_as: The stage whose windows it has. The first block of a stage still attends as the stage before,
            because attention changes after pooling (Hiera paper, section 3.2).
        dim: Channels of its input.
        dim_out: Channels of its output.
        num_heads: Attention heads.
        pools: Whether it pools its queries.
        poolings: Number of poolings up to its output.
        drop_path: Drop path rate.
        ends_stage: Whether its output is the stage's map.
    """

    stage: int
    attends_as: int
    dim: int
    dim_out: int
    num_heads: int
    pools: bool
    poolings: int
    drop_path: float
    ends_stage: bool


def plan_blocks(
    stages: Sequence[int],
    embed_dim: int,
    num_heads: int,
    *,
    q_pool: int,
    dim_mul: float,
    head_mul: float,
    drop_path_rate: float,
) -> list[BlockPlan]:
    """Plan the blocks of a trunk in order.

    Args:
        stages: Blocks per stage.
        embed_dim: Channels of the first stage.
        num_heads: Heads of the first stage.
        q_pool: Number of stage transitions that pool.
        dim_mul: Width factor between stages.
        head_mul: Head factor between stages.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.

    Raises:
        InputError: Heads do not divide the channels of a stage, or a block that pools keeps its width.
    """
    plans: list[BlockPlan] = []
    depth, dim = sum(stages), embed_dim
    for stage, blocks in enumerate(stages):
        pools = 0 < stage <= q_pool
        dim_out = int(dim * dim_mul) if stage else dim
        num_heads = int(num_heads * head_mul) if stage else num_heads
        if dim_out % num_heads:
            raise InputError(f"stage {stage + 1} has {dim_out} channels, which {num_heads} heads do not divide")
        if pools and dim_out == dim:
            raise InputError(f"dim_mul {dim_mul} leaves stage {stage + 1} at {dim} channels; pooling needs a change")
        for block in range(blocks):
            transition = stage > 0 and block == 0
            plans.append(
                BlockPlan(
                    stage=stage,
                    attends_as=stage - transition,
                    dim=dim,
                    dim_out=dim_out,
                    num_heads=num_heads,
                    pools=pools and transition,
                    poolings=min(stage, q_pool),
                    drop_path=drop_path_rate * len(plans) / max(depth - 1, 1),
                    ends_stage=block == blocks - 1,
                )
            )
            dim = dim_out
    return plans


def stage_ends(stages: Sequence[int]) -> list[int]:
    """Return the number of the last block of each stage."""
    return [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
