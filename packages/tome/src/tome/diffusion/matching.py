"""The matching of an image's tokens with one destination in each window (ToMe for SD paper, section 4.1)."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from plm_core.errors import InputError
from tome.matching import Matching, Merge, Unmerge, check_metric, identity, similarity

MAX_SCORES = 2**26
"""Largest number of similarities to hold in memory at once."""


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

    Each whole window of sy x sx tokens has one destination, the same for all samples. All other tokens are sources. The
    r sources that are most similar to a destination merge into it. The output has the other sources, the most similar
    first, and then the destinations in order of place.

    Args:
        metric: [B, h * w, C], row by row, compared by cosine similarity, see `tome.matching.similarity`.
        w: Number of tokens in a row.
        h: Number of rows.
        sx: Width of a window.
        sy: Height of a window.
        r: Tokens to merge away, at most all sources; none if it is 0 or less.
        no_rand: Take the top left token of a window as its destination, instead of a random one.
        generator: Generator of the random choice; None for the global one of the metric's device.

    Returns:
        The functions merge and unmerge, see `tome.matching.Merge` and `tome.matching.Unmerge`.

    Raises:
        InputError: The metric is not [B, h * w, C] or has NaN, a size is not a positive integer, or no window fits.
    """
    check_metric(metric, r)
    w, h, sx, sy = (check_count(name, value) for name, value in {"w": w, "h": h, "sx": sx, "sy": sy}.items())
    if metric.shape[1] != w * h:
        raise InputError(f"metric has {metric.shape[1]} tokens, not w x h = {w} x {h}")
    if sx > w or sy > h:
        raise InputError(f"windows of sx x sy = {sx} x {sy} do not fit into w x h = {w} x {h} tokens")
    if r <= 0:
        return identity, identity
    choice = None if no_rand else random_choice(w, h, sx, sy, generator, metric.device)
    matching = match(metric, w, h, sx, sy, r, choice)
    return matching.merge, matching.unmerge


@torch.no_grad()
def match(metric: Tensor, w: int, h: int, sx: int, sy: int, r: int, choice: Tensor | None) -> Matching:
    """Return the matching behind `bipartite_soft_matching_random2d`, without its checks.

    Args:
        metric: [B, h * w, C].
        w: Number of tokens in a row.
        h: Number of rows.
        sx: Width of a window.
        sy: Height of a window.
        r: Tokens to merge away, at least 1.
        choice: [h // sy, w // sx] int64, the token of each window that is its destination, counted row by row; None for
            the first.
    """
    top = torch.arange(0, h - sy + 1, sy, device=metric.device)[:, None]
    left = torch.arange(0, w - sx + 1, sx, device=metric.device)
    places = top * w + left if choice is None else (top + choice // sx) * w + left + choice % sx
    is_destination = torch.zeros(h * w, dtype=torch.uint8, device=metric.device).index_fill(0, places.flatten(), 1)
    sources, destinations = is_destination.argsort(stable=True).split([h * w - places.numel(), places.numel()])
    best, partner = _most_similar(metric.index_select(1, sources), metric.index_select(1, destinations))
    order = best.argsort(-1, descending=True)
    merged, unmerged = order[:, :r], order[:, r:]
    kept = torch.cat([sources[unmerged], destinations.expand(metric.shape[0], -1)], 1)
    return Matching(kept, sources[merged], partner.gather(1, merged) + unmerged.shape[1])


def random_choice(w: int, h: int, sx: int, sy: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Choose a random place in each window: [h // sy, w // sx] int64, drawn on the generator's device."""
    source = device if generator is None else generator.device
    choice = torch.randint(sy * sx, (h // sy, w // sx, 1), generator=generator, device=source)
    return choice.squeeze(-1).to(device)


def check_count(name: str, value: object) -> int:
    """Return a positive integer as a Python int; NumPy integers are accepted.

    Raises:
        InputError: The value is not a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}, not a positive integer")
    return int(value)


def _most_similar(sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greatest similarity of each source [B, n, C] to a destination [B, m, C], and its index; both [B, n].

    Sources are compared in parts, since all scores at once would take gigabytes for large images.
    """
    part = max(1, MAX_SCORES // max(1, destinations.shape[0] * destinations.shape[1]))
    results = [_max(similarity(some, destinations)) for some in sources.split(part, 1)]
    if len(results) == 1:
        return results[0]
    best, partner = (torch.cat(parts, 1) for parts in zip(*results, strict=True))
    return best, partner


def _max(scores: Tensor, group: int = 32) -> tuple[Tensor, Tensor]:
    """Return ``scores.max(-1)``, in two steps on a CPU.

    There argmax takes ten times as long as amax, so it is run only inside the group of columns with the maximum.
    """
    if scores.is_cuda or scores.shape[-1] % group:
        best, partner = scores.max(-1)
        return best, partner
    groups = scores.unflatten(-1, (-1, group))
    best, where = groups.amax(-1).max(-1)
    starts = torch.arange(0, where.numel() * groups.shape[-2], groups.shape[-2], device=where.device)
    winners = groups.flatten(0, -2).index_select(0, where.flatten() + starts)
    return best, where * group + winners.argmax(-1).view_as(where)
