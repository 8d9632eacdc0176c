"""Pictures of what the class token takes from each patch in the last Hydra layer (the paper's visualisation).

Patches that speak for a class are red, and patches that speak against it are blue. The strongest has the full colour.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hydra_attn.scores import patch_scores
from plm_core.errors import InputError, NotSupported
from plm_core.models import input_of, transform_for
from plm_core.utils.pictures import beside, enlarged

FOR, AGAINST = np.array((200, 30, 45)), np.array((35, 80, 190))


def paint(pixels: NDArray[np.uint8], scores: Tensor) -> Image.Image:
    """Paint the scores of patches on their image, which turns grey.

    Args:
        pixels: [H, W, 3] from 0 to 255, the input of the model as an image.
        scores: [P], a score for each patch, from the left to the right and downwards.

    Returns:
        An image of H x W pixels, or of a multiple of it if that is small.

    Raises:
        NotSupported: P patches of one size do not cover the image.
    """
    height, width, _ = pixels.shape
    rows = max(1, round(math.sqrt(len(scores) * height / width)))
    if rows * (len(scores) // rows) != len(scores) or height % rows or width % (len(scores) // rows):
        raise NotSupported(f"{len(scores)} patches do not cover {height} x {width} pixels, so they cannot be painted")
    share = (scores / scores.abs().max().clamp_min(1e-12)).reshape(rows, -1).cpu().numpy()
    share = share.repeat(height // rows, 0).repeat(width // share.shape[1], 1)[..., None]
    grey = pixels.mean(-1, keepdims=True) * 0.6 + 90  # pale, so that colours show
    colour = np.where(share > 0, FOR, AGAINST)
    painted = grey + np.abs(share) * 0.85 * (colour - grey)
    return enlarged(painted.clip(0, 255).astype(np.uint8))


def attention(model: nn.Module, image: Image.Image, number: int | None = None) -> tuple[Image.Image, dict[str, Any]]:
    """Paint which patches of an image speak for a class, beside the image as the model sees it.

    Args:
        model: A classifier with a class token, with Hydra applied, in eval mode.
        image: An image, which is preprocessed as the model needs it.
        number: The number of the class; None for the one that the model predicts.

    Returns:
        The picture, and what it shows: ``class``, its number, and its ``probability``.

    Raises:
        InputError: Hydra is not applied, the model is in training mode, or there is no such class.
        NotSupported: The model has no class token, or its patches are not of one size.
    """
    if not isinstance(image, Image.Image):
        raise InputError(f"image is a {type(image).__name__}; it is a PIL image")
    spec = input_of(model)
    x = transform_for(model)(image)[None].to(next(model.parameters()).device)
    with torch.inference_mode():
        probabilities = model(x)[0].float().softmax(-1)
    whole = isinstance(number, int) and not isinstance(number, bool)
    if number is not None and not (whole and 0 <= number < len(probabilities)):
        raise InputError(f"number of the class is {number!r}; it is from 0 to {len(probabilities) - 1}")
    chosen = int(probabilities.argmax()) if number is None else number
    scores = patch_scores(model, x, torch.tensor([chosen], device=x.device))[0]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    seen = (x[0].cpu() * std + mean).clamp(0, 1).movedim(0, -1).mul(255).round().numpy().astype(np.uint8)
    seen = np.broadcast_to(seen, (*seen.shape[:2], 3))
    return beside(enlarged(seen), paint(seen, scores)), {
        "class": chosen,
        "probability": round(float(probabilities[chosen]), 4),
    }
