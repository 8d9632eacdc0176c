"""Token Merging in the blocks of vision transformers (ToMe paper, arXiv 2210.09461, section 3).

    transform.py   apply and remove
    blocks.py      what a patched block does, and the state that travels with the tokens
    attention.py   proportional attention
    maps.py        feature maps of all tokens from a model that merges them
    tracing.py     which patches became one token in a forward pass, and the settings that were applied

The matching itself is in `tome.matching`; `tome.schedule` decides how many tokens merge in each block.
"""

from tome.vit.attention import proportional
from tome.vit.blocks import MergeState, MergingBlock, is_merging, merging_blocks
from tome.vit.tracing import Trace, schedule_of, settings_of, trace
from tome.vit.transform import Plan, apply, install_plans, installed_plans, remove

__all__ = [
    "MergeState",
    "MergingBlock",
    "Plan",
    "Trace",
    "apply",
    "install_plans",
    "installed_plans",
    "is_merging",
    "merging_blocks",
    "proportional",
    "remove",
    "schedule_of",
    "settings_of",
    "trace",
]
