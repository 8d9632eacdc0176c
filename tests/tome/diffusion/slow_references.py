"""Slow references in float64: one sample at a time, one token at a time."""

import torch
from torch.nn import functional as F


def slow_groups(metric, w, h, sx, sy, r, choice):
    """Return the destination of each token of one sample [N, C]; a token that does not merge is its own."""
    metric = metric.double()
    windows = [(y, x) for y in range(h // sy) for x in range(w // sx)]
    destinations = [(y * sy + choice[y][x] // sx) * w + x * sx + choice[y][x] % sx for y, x in windows]
    best = {}
    for source in set(range(w * h)) - set(destinations):
        cosines = [F.cosine_similarity(metric[source], metric[to], dim=0).item() for to in destinations]
        best[source] = (max(cosines), destinations[cosines.index(max(cosines))])
    to = list(range(w * h))
    for source in sorted(best, key=lambda token: -best[token][0])[:r]:
        to[source] = best[source][1]
    return to


def slow_merge(x, to):
    """Return the tokens left in order of place, [n, C], and the index among them for each of the N tokens."""
    left = sorted(set(to))
    return torch.stack([x[[i for i, t in enumerate(to) if t == place]].mean(0) for place in left]), [
        left.index(t) for t in to
    ]


def attention(q, k, v, heads, bias=None):
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5 + (0 if bias is None else bias)
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def normalized(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def linear(layer, x):
    return x @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
