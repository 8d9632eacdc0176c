"""Fewer visual tokens for the decoder: the most similar tokens of a chunk are merged.

The idea is that of Token Merging (arXiv 2210.09461), here between the projector and the decoder. In each round the
tokens in even places are matched with those in odd places, and the pairs that are most alike become one.

Shapes: N chunks, n visual tokens, D their width, r tokens merged away in a round.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core.errors import InputError
from plm_core.utils.devices import no_autocast


def merge_tokens(tokens: Tensor, keep: int) -> Tensor:
    """Merge the most similar tokens of each chunk until so many are left: [N, n, D] -> [N, keep, D].

    A merged token is the mean of all tokens that went into it, and stands in the place of the odd one of them, so the
    order of the places stays. A round can merge half of the tokens away; where more have to go there are several.
    Gradients flow through the means, not through the choice of pairs. No shape depends on values.

    Args:
        tokens: The visual tokens.
        keep: How many are left. With n or more the tokens are returned as they are.

    Raises:
        InputError: ``keep`` is below 1.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}; a whole number of visual tokens from 1 is expected")
    if keep >= tokens.shape[1]:
        return tokens
    with no_autocast(tokens.device.type):
        sums = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        sizes = torch.ones_like(sums[..., :1])
        while sums.shape[1] > keep:
            sums, sizes = _round(sums, sizes, min(sums.shape[1] // 2, sums.shape[1] - keep))
        return (sums / sizes).to(tokens.dtype)


def _round(sums: Tensor, sizes: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Merge r tokens away. A sum has the direction of its mean, so sums can be matched: [N, n, D] -> [N, n - r, D]."""
    directions = F.normalize(sums.detach(), dim=-1)
    likeness, partner = (directions[:, ::2] @ directions[:, 1::2].transpose(1, 2)).max(2)
    order = likeness.argsort(dim=1, descending=True, stable=True)
    merged, left = order[:, :r], order[:, r:]
    into = 2 * partner.gather(1, merged) + 1
    odd = torch.arange(1, sums.shape[1], 2, device=sums.device).expand(sums.shape[0], -1)
    places = torch.cat([2 * left, odd], 1).sort(1).values
    both = torch.cat([sums, sizes], 2)
    both = both.scatter_add(1, _wide(into, both), both.gather(1, _wide(2 * merged, both)))
    both = both.gather(1, _wide(places, both))
    return both[..., :-1], both[..., -1:]


def _wide(places: Tensor, like: Tensor) -> Tensor:
    """Return places as the index of whole tokens."""
    return places[..., None].expand(-1, -1, like.shape[2])
