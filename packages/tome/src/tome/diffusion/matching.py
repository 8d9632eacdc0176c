"""Which tokens of an image become one: one destination in each window (ToMe for SD paper, section 4.1)."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from plm_core.errors import InputError
from tome.matching import Matching, Merge, Unmerge, check, identity, similarity

SCORES = 2**26
"""How many similarities to have in memory at once."""


def bipartite_soft_matching_random2d(
    metric: Tensor,
    w: int,
    h: int,
    sx: int,
    sy: int,
    r: int,
    no_rand: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Merge, Unmerge]:
    """Match the tokens of an image with one token of every window (paper, section 4.1).

    Each whole window of sy x sx tokens has one destination, the same for all samples; all other tokens are sources.
    The r sources that are most similar to a destination merge into it. Output tokens are the other sources, most
    similar first, then the destinations by place.

    Args:
        metric: [B, h * w, C], row by row; compared by cosine, see `tome.matching.similarity`.
        w: Tokens in a row.
        h: Rows.
        sx: Width of a window.
        sy: Height of a window.
        r: Tokens to merge away, at most all sources; 0 or less for none.
        no_rand: The destination is the top left token of its window instead of a random one.
        generator: Where the choice comes from; None for the global one of the metric's device.

    Returns:
        Functions merge and unmerge, see `tome.matching.Merge` and `tome.matching.Unmerge`.

    Raises:
        InputError: The metric is not [B, h * w, C] or has NaN; a size is not a positive integer; no window fits.
    """
    check(metric, r)
    w, h, sx, sy = (check_count(name, value) for name, value in {"w": w, "h": h, "sx": sx, "sy": sy}.items())
    if metric.shape[1] != w * h:
        raise InputError(f"metric has {metric.shape[1]} tokens, not w x h = {w} x {h}")
    if sx > w or sy > h:
        raise InputError(f"windows of sx x sy = {sx} x {sy} do not fit into w x h = {w} x {h} tokens")
    if r <= 0:
        return identity, identity
    choice = None if no_rand else draw(w, h, sx, sy, generator, metric.device)
    matching = match(metric, w, h, sx, sy, r, choice)
    return matching.merge, matching.unmerge


@torch.no_grad()
def match(metric: Tensor, w: int, h: int, sx: int, sy: int, r: int, choice: Tensor | None) -> Matching:
    """The matching behind `bipartite_soft_matching_random2d`, without its checks, for 0 < r.

    Args:
        metric: [B, h * w, C].
        w: Tokens in a row.
        h: Rows.
        sx: Width of a window.
        sy: Height of a window.
        r: Tokens to merge away.
        choice: [h // sy, w // sx] int64, which token of each window is the destination, row by row; None for the first.
    """
    top = torch.arange(0, h - sy + 1, sy, device=metric.device)[:, None]
    left = torch.arange(0, w - sx + 1, sx, device=metric.device)
    places = top * w + left if choice is None else (top + choice // sx) * w + left + choice % sx
    chosen = torch.zeros(h * w, dtype=torch.uint8, device=metric.device).index_fill(0, places.flatten(), 1)
    sources, destinations = chosen.argsort(stable=True).split([h * w - places.numel(), places.numel()])
    best, partner = _most_similar(metric.index_select(1, sources), metric.index_select(1, destinations))
    order = best.argsort(-1, descending=True)
    merged, unmerged = order[:, :r], order[:, r:]
    kept = torch.cat([sources[unmerged], destinations.expand(metric.shape[0], -1)], 1)
    return Matching(kept, sources[merged], partner.gather(1, merged) + unmerged.shape[1])


def draw(w: int, h: int, sx: int, sy: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """[h // sy, w // sx] int64: a random place in each window, drawn where the generator is."""
    source = device if generator is None else generator.device
    drawn = torch.randint(sy * sx, (h // sy, w // sx, 1), generator=generator, device=source)
    return drawn.squeeze(-1).to(device)


def check_count(name: str, value: object) -> int:
    """A positive integer as Python's own; NumPy's are welcome.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}, not a positive integer")
    return int(value)


def _most_similar(sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest similarity of each source [B, n, C] to a destination [B, m, C], and which that is; both [B, n].

    In parts, since all scores at once would take gigabytes for large images.
    """
    part = max(1, SCORES // (destinations.shape[0] * destinations.shape[1]))
    found = [_greatest(similarity(some, destinations)) for some in sources.split(part, 1)]
    if len(found) == 1:
        return found[0]
    best, partner = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return best, partner


def _greatest(scores: Tensor, group: int = 32) -> tuple[Tensor, Tensor]:
    """``scores.max(-1)``; in two steps on a CPU: there argmax takes ten times as long as amax, and gets few numbers."""
    if scores.is_cuda or scores.shape[-1] % group:
        best, partner = scores.max(-1)
        return best, partner
    groups = scores.unflatten(-1, (-1, group))
    best, where = groups.amax(-1).max(-1)
    starts = torch.arange(0, where.numel() * groups.shape[-2], groups.shape[-2], device=where.device)
    winners = groups.flatten(0, -2).index_select(0, where.flatten() + starts)
    return best, where * group + winners.argmax(-1).view_as(where)
