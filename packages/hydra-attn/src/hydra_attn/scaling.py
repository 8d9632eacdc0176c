"""Time against tokens: Hydra and torch's fused softmax attention, with the same projections."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor

from hydra_attn.attention import hydra
from hydra_attn.layer import HydraAttention
from plm_core.tools.bench import interleaved
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HYDRA, SOFTMAX = "Hydra", "softmax"
COLOURS = {HYDRA: "#228833", SOFTMAX: "#aa3377"}
Row = Mapping[str, Any]


def softmax(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Compute multi-head softmax attention by torch's fused kernel: [B, T, D] -> [B, T, D]."""
    heads = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


@torch.inference_mode()
def measure(tokens: Sequence[int], dim: int = 768, num_heads: int = 12, rounds: int = 8) -> list[dict[str, Any]]:
    """Time one image of each number of tokens, in float32 on the CPU, in turns.

    Args:
        tokens: Numbers of tokens.
        dim: D, the features of a token.
        num_heads: The heads of the softmax.
        rounds: Number of rounds, of which the first quarter is discarded.

    Returns:
        A row for each number of tokens and each ``part``, "attention" alone and the whole "layer" with its
        projections: the median milliseconds of "Hydra" and of "softmax", and ``ratio``, the median of the quotients of
        one round.
    """
    layers = {
        HYDRA: HydraAttention(dim, num_heads, qkv_bias=True).eval(),
        SOFTMAX: Attention(dim, num_heads, qkv_bias=True).eval(),
    }
    attend: dict[str, Callable[..., Tensor]] = {HYDRA: hydra, SOFTMAX: partial(softmax, num_heads=num_heads)}
    rows = []
    for number in tokens:
        q, k, v = torch.randn(3, 1, number, dim, generator=torch.Generator().manual_seed(0))
        calls: dict[str, Mapping[str, Callable[[], object]]] = {
            "attention": {name: partial(function, q, k, v) for name, function in attend.items()},
            "layer": {name: partial(layer, q) for name, layer in layers.items()},
        }
        for part, contenders in calls.items():
            seconds = interleaved(contenders, rounds)
            quotients = [a / b for a, b in zip(seconds[HYDRA], seconds[SOFTMAX], strict=True)]
            times = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
            rows.append({"tokens": number, "part": part, **times, "ratio": statistics.median(quotients)})
    return rows


def plot(rows: Sequence[Row], parts: Sequence[str] = ("attention", "layer")) -> Figure:
    """Plot the milliseconds of rows of `measure` against the number of tokens, with a panel for each part."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(3.8 * len(parts), 3.0), layout="constrained")
    for ax, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        shown = [row for row in rows if row["part"] == part]
        for name, colour in COLOURS.items():
            ax.plot([row["tokens"] for row in shown], [row[name] for row in shown], "o-", color=colour, label=name)
        ax.set(title=part, xlabel="tokens", ylabel="milliseconds", ylim=(0, None))
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
