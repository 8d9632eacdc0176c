"""Pictures of a model's output: a masked autoencoder's reconstruction and a detector's detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from hiera.mae import MaskedAutoencoderHiera
from plm_core import InputError
from plm_core.hookspecs import IMAGENET_MEAN, IMAGENET_STD, VIDEO_MEAN, VIDEO_STD
from plm_core.prediction.detection import objects_of
from plm_core.prediction.drawing import draw
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Labels of a reconstruction's rows, from top to bottom.
ROWS = ("original", "masked", "reconstruction", "pasted")
# Level of masked pixels, from 0 (black) to 1 (white).
GREY = 0.5
# Largest number of images in one figure.
COLUMNS = 16
EXTRA = "plm-core[tour]"  # installs matplotlib


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
    """Plot rows of the original, the masked input, the reconstruction, and the latter with visible patches pasted in.

    The columns are the images of a batch, or those frames of one clip that are predicted (every second one). The model
    predicts patches that are normalised by their own mean and variance. As in MAE papers, the normalisation is undone
    with the mean and variance of the true patch, also where the patch is hidden. The brightness and contrast of a patch
    are therefore the original's, and only its structure is predicted.

    Args:
        mae: The masked autoencoder, in eval mode.
        x: Normalised images [B, C, H, W], with B at most 16, or one clip [1, C, T, H, W]; C is 1 or 3.
        mask: Keep mask, bool [B, U], True = visible, or kept indices, int64 [B, K].
        mask_ratio: Share of mask units to drop if ``mask`` is None. None for the papers': 0.6, or 0.9 for video.
        generator: Generator for drawing that mask.
        mean: Mean by which ``x`` is normalised. None for ImageNet's, or .45 for video.
        std: Standard deviation by which ``x`` is normalised. None for ImageNet's, or .225 for video.

    Returns:
        A matplotlib figure, to be saved with ``savefig`` or passed to ``plm_core.tools.tour.Tour.figure``.

    Raises:
        MissingDependency: matplotlib is not installed.
        InputError: ``x`` has a different shape, or the model is in training mode.
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
    predicted, original, hidden = mae.reconstruct(x, ratio, mask, generator)
    mean, std = mean or (VIDEO_MEAN if clip else IMAGENET_MEAN), std or (VIDEO_STD if clip else IMAGENET_STD)
    predicted, original = (_displayed(t, mean, std) for t in (predicted, original))
    rows = (original, torch.where(hidden, GREY, original), predicted, torch.where(hidden, predicted, original))
    strips = [row[0].movedim(1, 0) if clip else row for row in rows]  # [columns, C, H, W]
    size = (1.5 * len(strips[0]) + 0.5, 1.5 * len(ROWS))
    figure = plots.figure("a picture", EXTRA, figsize=size, layout="constrained")
    axes = figure.subplots(len(ROWS), len(strips[0]), squeeze=False)
    for name, strip, row_axes in zip(ROWS, strips, axes, strict=True):
        row_axes[0].set_ylabel(name)
        for picture, ax in zip(strip, row_axes, strict=True):
            ax.imshow(picture.movedim(0, -1).squeeze(-1).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
    return figure


def _displayed(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation of the channels at dim 1, and clamp the levels to 0 and 1."""
    shape = (-1, *[1] * (x.ndim - 2))
    scale, shift = (torch.tensor(v[: x.shape[1]], device=x.device).view(shape) for v in (std, mean))
    return (x.float() * scale + shift).clamp(0, 1)


def detections(
    image: Tensor, prediction: Mapping[str, Tensor], names: Mapping[int, str], threshold: float = 0.5
) -> Image.Image:
    """Draw boxes, names and masks of the detections whose score is at least ``threshold``, as ``plm predict`` does.

    Args:
        image: The image, float [3, H, W] from 0 to 1.
        prediction: A detector's prediction for the image. A target of a dataset can be drawn as well.
        names: Name of each label.
        threshold: Lowest score of a detection that is drawn.

    Returns:
        The picture, RGB. A small one is enlarged by a whole factor, so that the names can be read.
    """
    plain = {k: v.as_subclass(Tensor) for k, v in prediction.items() if k in ("boxes", "labels", "scores", "masks")}
    plain.setdefault("scores", torch.ones(len(plain["labels"])))
    if "masks" in plain:
        plain["masks"] = plain["masks"].reshape(-1, 1, *image.shape[1:])

    def name(number: int) -> str:
        return names.get(number + 1, str(number + 1))

    picture = to_pil_image(image.as_subclass(Tensor).clamp(0, 1).cpu())
    return draw(picture, objects_of(plain, name, threshold))
