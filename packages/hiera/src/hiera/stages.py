"""The plan by which a hierarchical trunk distributes its blocks over stages; Hiera and HieraDet share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plm_core import InputError


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """The place and the sizes of one block.

    Attributes:
        stage: Index of the block's stage, from 0.
        attends_as: Index of the stage whose windows the block uses. The first block of a stage still uses those of the
            stage before, because attention changes after pooling (Hiera paper, section 3.2).
        dim: Number of input channels.
        dim_out: Number of output channels.
        num_heads: Number of attention heads.
        pools: Whether the block pools its queries.
        poolings: Number of poolings between the patch embedding and the block's output.
        drop_path: Drop path rate.
        ends_stage: Whether the block's output is the stage's map.
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
        stages: Number of blocks in each stage.
        embed_dim: Number of channels in the first stage.
        num_heads: Number of attention heads in the first stage.
        q_pool: Number of stage transitions that pool.
        dim_mul: Factor on the number of channels from one stage to the next.
        head_mul: Factor on the number of heads from one stage to the next.
        drop_path_rate: Drop path rate of the last block; the rate rises linearly from 0 at the first block.

    Raises:
        InputError: A stage's channels are not a multiple of its heads, or a block that pools keeps its width.
    """
    plans: list[BlockPlan] = []
    depth, dim = sum(stages), embed_dim
    for stage, blocks in enumerate(stages):
        pools = 0 < stage <= q_pool
        dim_out = int(dim * dim_mul) if stage else dim
        num_heads = int(num_heads * head_mul) if stage else num_heads
        if min(dim_out, num_heads) < 1:
            raise InputError(f"stage {stage + 1} has {dim_out} channels and {num_heads} heads; at least 1 is needed")
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
    """Return the index of the last block of each stage."""
    return [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
