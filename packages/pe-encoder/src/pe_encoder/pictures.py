"""Pictures of features: the three main components of a feature map as colours (arXiv 2504.13181, its figures)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from plm_core import InputError
from plm_core.utils.images import Channels
from plm_core.utils.pictures import beside as side_by_side
from plm_core.utils.pictures import enlarged, scale_of

LIGHTNESS = (25.0, 90.0)
CHROMA = (5.0, 70.0)
HUE = (0.0, 300.0)
"""The ranges of the three components, in this order, as L, C and h of CIE LCh. The paper gives none; these are ours.

The hues end before they come back to the first, so that opposite ends of a component have different colours.
"""
QUANTILES = (0.02, 0.98)
"""The quantiles of a component that get the ends of its range, so that a few odd patches do not set it."""


def paint_pca(image: Image.Image, feature_map: Tensor, *, beside: bool = True) -> Image.Image:
    """Paint the three main components of a feature map as colours: patches of one colour have similar features.

    As in the paper, the mean of the map and a blurred copy of it (3 x 3, sigma 1) is reduced to three components, which
    become lightness, chroma and hue. The colours of two pictures cannot be compared, since each has its own components.

    Args:
        image: The image, of any size; the map is stretched over it.
        feature_map: Its features, float [C, rows, columns] with C at least 3 and at least 4 patches.
        beside: Whether the image is shown too, left of the features.

    Returns:
        The picture, RGB: the features on the size of the image, which is enlarged by a whole factor if it is small, and
        the image beside them.

    Raises:
        InputError: The map has another shape, or values that are not finite.
    """
    pixels = np.asarray(Channels(3)(image))
    colours = torch.from_numpy(lch_to_rgb(_lch(components(feature_map)))).permute(2, 0, 1)
    size = [side * scale_of(*pixels.shape[:2]) for side in pixels.shape[:2]]
    large = F.interpolate(colours[None], size=size, mode="bilinear", align_corners=False)[0]
    painted = Image.fromarray((255 * large.permute(1, 2, 0)).round().to(torch.uint8).numpy())
    return side_by_side(enlarged(pixels), painted) if beside else painted


def components(feature_map: Tensor) -> Tensor:
    """Return the three main components of a smoothed feature map, [C, rows, columns] -> float64 [rows, columns, 3].

    Each is scaled to 0 to 1. Its sign, which a principal component leaves open, is that of its largest weight.

    Raises:
        InputError: See `paint_pca`.
    """
    x = feature_map.detach().cpu().double() if isinstance(feature_map, Tensor) else feature_map
    if not isinstance(x, Tensor) or x.ndim != 3 or len(x) < 3 or x[0].numel() < 4:
        shape = list(x.shape) if isinstance(x, Tensor) else f"that of a {type(x).__name__}"
        raise InputError(f"feature_map has shape {shape}; [3 channels or more, rows, columns] is expected")
    if not x.isfinite().all():
        raise InputError("feature_map has values that are not finite")
    smooth = (x + blur(x)) / 2
    tokens = smooth.flatten(1).T
    tokens = tokens - tokens.mean(0)
    axes = torch.linalg.svd(tokens, full_matrices=False).Vh[:3]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    projected = tokens @ (axes * largest.sign()).T
    low, high = torch.quantile(projected, torch.tensor(QUANTILES, dtype=projected.dtype), dim=0)
    scaled = (projected - low) / (high - low).clamp_min(1e-12)
    return scaled.clamp(0, 1).unflatten(0, x.shape[1:])


def blur(x: Tensor) -> Tensor:
    """Blur maps [C, rows, columns] by a Gaussian of 3 x 3 patches with a sigma of one patch."""
    padded = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
    blurred: Tensor = gaussian_blur(padded, [3, 3], [1.0, 1.0])
    return blurred[:, 1:-1, 1:-1]


def _lch(shares: Tensor) -> NDArray[np.float64]:
    """Return shares of the three ranges [..., 3] as L, C and h."""
    low, high = np.array([LIGHTNESS, CHROMA, HUE]).T
    lch: NDArray[np.float64] = low + shares.numpy() * (high - low)
    return lch


# --- CIE LCh to sRGB ------------------------------------------------------------------------------------------

WHITE = np.array([0.95047, 1.0, 1.08883])
"""The white point D65."""
TO_LINEAR_RGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)


def lch_to_rgb(lch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert CIE LCh (lightness, chroma, hue in degrees) to sRGB from 0 to 1, [..., 3]; other colours are clipped."""
    lightness, chroma, hue = np.moveaxis(lch, -1, 0)
    y = (lightness + 16) / 116
    x = y + chroma * np.cos(np.deg2rad(hue)) / 500
    z = y - chroma * np.sin(np.deg2rad(hue)) / 200
    f = np.stack([x, y, z], -1)
    linear = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE @ TO_LINEAR_RGB.T
    linear = linear.clip(0, 1)
    rgb: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb
