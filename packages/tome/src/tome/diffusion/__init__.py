"""Token Merging in the attention of diffusion models (Token Merging for Stable Diffusion, arXiv 2303.17604).

Similar tokens of the image merge before an attention, and after it each of them gets the result, so the rest of the
model sees all tokens. Blocks and attention stay diffusers' own: `apply` registers hooks on them, which merge the inputs
of an attention and unmerge its output. Gates and residuals after an attention treat each token alone, with the same
factors for all tokens of a sample. It makes no difference to them that tokens are unmerged first.

    matching.py    which tokens become one
    state.py       the settings, and what a model remembers between its blocks and its calls
    hooks.py       what the hooks do in each kind of block
    transform.py   apply and remove

Shapes: B batch size (images; in video models, frames), N tokens of the image, n tokens left, C channels.
"""

from tome.diffusion.matching import bipartite_soft_matching_random2d
from tome.diffusion.transform import apply, remove

__all__ = ["apply", "bipartite_soft_matching_random2d", "remove"]
