"""Whole models: ViT-B/16 with the softmax and with Hydra in all its layers, by the size of the image."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch

from hydra_attn.api import apply
from hydra_attn.scaling import COLOURS, HYDRA, SOFTMAX, Row
from plm_core.tools.bench import interleaved
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "vit_base_patch16_224"
SIZES = ((224, 224), (384, 384), (512, 512), (768, 768), (1080, 1920))
"""Heights and widths in pixels; the last image has 8040 patches, as 1080 is no multiple of 16 and is cut to 1072."""


@torch.inference_mode()
def measure(name: str, sizes: Sequence[tuple[int, int]], rounds: int = 4) -> list[dict[str, Any]]:
    """Time one image of each size, from pixels to logits, with random weights, in float32 on the CPU, in turns.

    Args:
        name: The name of a ViT of timm with patches of 16 pixels.
        sizes: Heights and widths in pixels.
        rounds: Number of rounds, of which the first quarter is discarded.

    Returns:
        A row for each size: its ``tokens``, the median seconds of "Hydra" and of "softmax", and ``ratio``, the median
        of the quotients of one round.
    """
    rows = []
    for height, width in sizes:
        size = height // 16 * 16, width // 16 * 16
        torch.manual_seed(0)
        plain = timm.create_model(name, img_size=size).eval()
        models = {HYDRA: apply(timm.create_model(name, img_size=size).eval(), "all"), SOFTMAX: plain}
        x = torch.rand(1, 3, *size)
        seconds = interleaved({key: partial(model, x) for key, model in models.items()}, rounds)
        quotients = [a / b for a, b in zip(seconds[HYDRA], seconds[SOFTMAX], strict=True)]
        times = {key: statistics.median(values) for key, values in seconds.items()}
        rows.append({"tokens": size[0] * size[1] // 256 + 1, **times, "ratio": statistics.median(quotients)})
    return rows


def plot(rows: Sequence[Row]) -> Figure:
    """Plot how many times as fast Hydra is, by the number of tokens. Above 1 it is faster."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(4.4, 3.0), layout="constrained")
    ax = figure.subplots()
    ax.plot([row["tokens"] for row in rows], [1 / row["ratio"] for row in rows], "o-", color=COLOURS[HYDRA])
    ax.axhline(1, color=COLOURS[SOFTMAX], linewidth=1)
    ax.set(xlabel="tokens", ylabel="times as fast as the softmax", xscale="log", ylim=(0, None))
    tokens = [row["tokens"] for row in rows]
    ax.set_xticks(tokens, map(str, tokens))
    ax.minorticks_off()
    ax.set_title("ViT-B/16, all layers", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
