"""Pictures of what models make of an input: a masked autoencoder's reconstruction, a detector's finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from hiera.configs import VIDEO_MEAN, VIDEO_STD
from hiera.mae import MaskedAutoencoderHiera
from plm_core import InputError
from plm_core.hookspecs import IMAGENET_MEAN, IMAGENET_STD
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = ("original", "masked", "reconstruction", "pasted")
GREY = 0.5
COLUMNS = 16
EXTRA = "plm-core[tour]"  # installs matplotlib
# of labels in pictures; from Paul Tol's "bright" scheme, which colour-blind people can tell apart
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


@torch.no_grad()
def reconstruction(
    mae: MaskedAutoencoderHiera,
    x: Tensor,
    mask: Tensor | None = None,
    mask_ratio: float | None = None,
    generator: torch.Generator | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Figure:
    """Original, masked input, reconstruction, and the reconstruction with the visible patches pasted in, as rows.

    Columns are the images of a batch, or the frames of one clip that are predicted (every second one). The model
    predicts patches normalised by their own mean and variance; as in MAE papers they are put back with those of the
    true patch, hidden ones too. So brightness and contrast of a patch are given, its structure is the model's.

    Args:
        mae: In eval mode.
        x: Normalised images [B, C, H, W], B at most 16, or one clip [1, C, T, H, W], of 1 or 3 channels.
        mask: Keep mask, bool [B, U], True = visible, or kept indices, int64 [B, K].
        mask_ratio: Share of mask units to drop when no mask is given; None for the paper's, 0.6 and for video 0.9.
        generator: Draws that mask.
        mean: Mean that ``x`` is normalised by; None for ImageNet's, for video .45.
        std: Standard deviation that ``x`` is normalised by; None for ImageNet's, for video .225.

    Returns:
        A matplotlib figure: ``savefig`` it, or give it to ``plm_core.tools.tour.Tour.figure``.

    Raises:
        MissingDependency: matplotlib is not installed.
        InputError: ``x`` has another shape, or the model is in training mode.
    """
    plots.require_matplotlib("a picture", EXTRA)  # before the model runs
    clip = x.ndim == 5
    if x.ndim not in (4, 5) or x.shape[1] not in (1, 3) or not 0 < len(x) <= (1 if clip else COLUMNS):
        raise InputError(
            f"x has shape {list(x.shape)}; images [1 to {COLUMNS}, 1 or 3, height, width] or a clip "
            "[1, 1 or 3, frames, height, width] are expected"
        )
    if mae.training:
        raise InputError("mae is in training mode: call mae.eval() first")
    ratio = (0.9 if clip else 0.6) if mask_ratio is None else mask_ratio
    made, original, hidden = mae.reconstruct(x, ratio, mask, generator)
    mean, std = mean or (VIDEO_MEAN if clip else IMAGENET_MEAN), std or (VIDEO_STD if clip else IMAGENET_STD)
    made, original = (_displayed(t, mean, std) for t in (made, original))
    rows = (original, torch.where(hidden, GREY, original), made, torch.where(hidden, made, original))
    strips = [row[0].movedim(1, 0) if clip else row for row in rows]  # [columns, C, H, W]
    size = (1.5 * len(strips[0]) + 0.5, 1.5 * len(ROWS))
    figure = plots.figure("a picture", EXTRA, figsize=size, layout="constrained")
    axes = figure.subplots(len(ROWS), len(strips[0]), squeeze=False)
    for name, strip, places in zip(ROWS, strips, axes, strict=True):
        places[0].set_ylabel(name)
        for picture, ax in zip(strip, places, strict=True):
            ax.imshow(picture.movedim(0, -1).squeeze(-1).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
    return figure


def _displayed(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation of channels at dim 1; levels from 0 to 1."""
    shape = (-1, *[1] * (x.ndim - 2))
    scale, shift = (torch.tensor(v[: x.shape[1]], device=x.device).view(shape) for v in (std, mean))
    return (x.float() * scale + shift).clamp(0, 1)


def detections(
    image: Tensor, prediction: Mapping[str, Tensor], names: Mapping[int, str], threshold: float = 0.5
) -> Tensor:
    """Draw boxes, names and masks of the detections whose score is at least ``threshold``.

    Args:
        image: Float [3, H, W] from 0 to 1.
        prediction: As a detector gives it; a target of a dataset is drawn too.
        names: Name of each label.
        threshold: Least score.

    Returns:
        Uint8 [3, H, W].
    """
    picture = (image.as_subclass(Tensor).clamp(0, 1) * 255).round().to(torch.uint8)
    boxes, labels = prediction["boxes"].as_subclass(Tensor), prediction["labels"].tolist()
    scores = prediction.get("scores", torch.ones(len(labels)))
    keep = torch.where(scores >= threshold)[0].tolist()
    if not keep:
        return picture
    colours = [COLOURS[labels[i] % len(COLOURS)] for i in keep]
    if "masks" in prediction:
        masks = prediction["masks"].as_subclass(Tensor).reshape(len(labels), *picture.shape[1:])[keep] > 0.5
        picture = draw_segmentation_masks(picture, masks, alpha=0.5, colors=colours)
    said = [names.get(labels[i], str(labels[i])) for i in keep]
    if "scores" in prediction:
        said = [f"{name} {scores[i]:.2f}" for name, i in zip(said, keep, strict=True)]
    return draw_bounding_boxes(picture, boxes[keep], said, colors=colours)
