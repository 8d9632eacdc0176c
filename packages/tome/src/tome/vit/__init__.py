"""Token Merging in the blocks of vision transformers (ToMe paper, arXiv 2210.09461, section 3).

    transform.py   apply and remove
    blocks.py      what a block does once it is patched, and the state that travels with the tokens
    attention.py   proportional attention
    maps.py        feature maps of all tokens from a model that merges them
    tracing.py     which patches became one token in a forward pass

The matching itself is `tome.matching`, and the number of tokens for each block is `tome.schedule`.
"""

from tome.vit.attention import proportional
from tome.vit.blocks import Merged, MergingBlock, is_merging, merging_blocks
from tome.vit.tracing import Trace, trace
from tome.vit.transform import apply, current, put, remove

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
