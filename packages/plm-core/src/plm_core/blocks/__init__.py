"""The way for a transform to reach into a model: its blocks taken apart, its special tokens, its positions.

The package that owns a model family declares a `BlockAdapter` whose ``view`` function returns a `ModelView`. A
transform calls `view(model)` and works on the pieces, so it neither guesses attribute names nor imports the family's
package. `run_block` puts the pieces of a block together again. With plain attention it gives the block's own output,
which ``plm_core.testing.check_blocks`` verifies for every adapter. A transform replaces one piece: Hydra Attention
replaces the attention, and Token Merging adds a step between the attention and the MLP.

- ``views``: a block and a model as transforms see them.
- ``lookup``: find the view of a model.
- ``patching``: replace the forward of a block or change its pieces, and undo it.
- ``changes``: refuse what a patch would leave out, such as hooks of the attention.
- ``swapping``: change the class of a module, which patching builds on.
- ``gathering``: take some rows of each sample, such as the kept tokens.
- ``checking``: `check_blocks`, the check of an adapter, from ``facts`` (held to what the model does), ``influence``
  (the tokens that a token and the answer depend on), ``attribution`` (which piece differs) and ``recording`` (what can
  be seen of a run).
- ``examples``: a small model of each family, for trying the pieces.
"""

from plm_core.blocks.gathering import take_rows
from plm_core.blocks.lookup import find, view
from plm_core.blocks.patching import (
    Change,
    Forward,
    Patched,
    alter,
    altered_by,
    patch,
    patched_by,
    state_of,
    unalter,
    unpatch,
)
from plm_core.blocks.swapping import Swapped, forward_class, original_class, swap, swap_back
from plm_core.blocks.views import Attend, BlockView, ModelView, Tokens, attend, attention_kwargs, part_of, run_block

__all__ = [
    "Attend",
    "BlockView",
    "Change",
    "Forward",
    "ModelView",
    "Patched",
    "Swapped",
    "Tokens",
    "alter",
    "altered_by",
    "attend",
    "attention_kwargs",
    "find",
    "forward_class",
    "original_class",
    "part_of",
    "patch",
    "patched_by",
    "run_block",
    "state_of",
    "swap",
    "swap_back",
    "take_rows",
    "unalter",
    "unpatch",
    "view",
]
