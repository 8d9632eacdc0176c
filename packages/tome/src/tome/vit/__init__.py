"""Token Merging in the blocks of vision transformers (arXiv 2210.09461, section 3)."""

from tome.vit.attention import proportional
from tome.vit.blocks import Merged, MergingBlock, apply, current, is_merging, merging_blocks, put, remove
from tome.vit.tracing import Trace, trace

__all__ = [
    "Merged",
    "MergingBlock",
    "Trace",
    "apply",
    "current",
    "is_merging",
    "merging_blocks",
    "proportional",
    "put",
    "remove",
    "trace",
]
