"""How transforms reach into a model: its blocks taken apart, its special tokens, its positions.

The package that owns a model family declares a `BlockAdapter` whose ``view`` function returns a `ModelView`. A
transform asks `view(model)` and works on the pieces it gets, so it neither guesses attribute names nor imports the
family's package. The pieces of a block are chosen such that `run_block` with plain attention equals the block's own
forward (``plm_core.testing.check_blocks`` holds every adapter to that). A transform swaps one piece: Hydra the
attention itself, Token Merging what happens between attention and MLP.

- ``views``: a block and a model as transforms see them.
- ``lookup``: from a model to its view.
- ``patching``: a block's forward replaced, and restored.
- ``swapping``: the class change that patching rests on.
- ``gathering``: take some rows of each sample, such as the kept tokens.
- ``examples``: a small model of each family, on which pieces are tried.
"""

from plm_core.blocks.gathering import take_rows
from plm_core.blocks.lookup import find, view
from plm_core.blocks.patching import Forward, Patched, patch, patched_by, state_of, unpatch
from plm_core.blocks.swapping import Swapped, original_class, swap, swap_back
from plm_core.blocks.views import Attend, BlockView, ModelView, Tokens, attend, attention_kwargs, run_block

__all__ = [
    "Attend",
    "BlockView",
    "Forward",
    "ModelView",
    "Patched",
    "Swapped",
    "Tokens",
    "attend",
    "attention_kwargs",
    "find",
    "original_class",
    "patch",
    "patched_by",
    "run_block",
    "state_of",
    "swap",
    "swap_back",
    "take_rows",
    "unpatch",
    "view",
]
