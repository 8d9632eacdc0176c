"""Token Merging in the attention of diffusion models (Token Merging for Stable Diffusion, arXiv 2303.17604).

Before an attention similar tokens of the image become one, after it each of them gets the result: the rest of the model
sees all tokens. Blocks and attention stay diffusers' own; `apply` hangs hooks on them, which merge what goes into an
attention and unmerge what comes out of it. Gates and residuals after it work token by token with factors that are the
same for all tokens of a sample, so it makes no difference that they come after unmerging.

    matching.py   which tokens become one
    state.py      the settings, and what a model remembers between its blocks and calls
    hooks.py      what happens at a block, for each kind of block
    transform.py  apply and remove

Shapes: B batch (of images; in video models of frames), N tokens of the image, n tokens left, C channels.
"""

from tome.diffusion.matching import bipartite_soft_matching_random2d
from tome.diffusion.transform import apply, remove

__all__ = ["apply", "bipartite_soft_matching_random2d", "remove"]
