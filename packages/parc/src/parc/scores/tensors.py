"""Features on an accelerator: reduced or rotated there, so that only a few numbers for each image are copied.

The products with the wide features [N, D] run on the device, in float64. What is left of a score works on at most N
coordinates for each image, in NumPy.
"""

from __future__ import annotations

from typing import Any

from parc.scores.inputs import LARGEST_SINGLE, Array
from parc.scores.linalg import CUTOFF


def on_accelerator(features: Any) -> bool:
    """Return whether features are a tensor on a device that computes in float64 faster than a CPU."""
    return hasattr(features, "detach") and features.device.type in ("cuda", "xpu")


def coordinates(features: Any, count: int | None = None) -> Array | None:
    """Return the coordinates of features [N, D] in a basis of their own.

    Args:
        features: A tensor on any device.
        count: Number of principal components, at most N and D; their result is that of `parc.scores.pca.principal`.
            None for all directions of the features that are not centred, which keeps all inner products of rows.

    Returns:
        Float64 [N, count], or [N, rank]. None if the features are not plain: not two-dimensional, NaN, infinite,
        very large or constant. The checks of `parc.scores.inputs.features_of` then say why.
    """
    import torch

    x = features.detach()
    if x.layout != torch.strided or x.ndim != 2 or min(x.shape) < 2 or not (x.is_floating_point() and _plain(x)):
        return None
    x = x.double()
    if count is not None:
        x = x - x.mean(0)
    wide = x.shape[0] <= x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = values > CUTOFF * values[-1]
    values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
    rows = vectors * values.sqrt() if wide else x @ vectors
    if count is not None:
        rows = rows[:, :count]
        directions = rows.T @ x
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        rows = torch.nn.functional.pad(rows * torch.where(largest < 0, -1, 1).T, (0, count - rows.shape[1]))
    return rows.cpu().numpy()


def _plain(x: Any) -> bool:
    varies = (x != x[:1]).any()
    return bool((x.abs().max() <= LARGEST_SINGLE) & varies)  # False for NaN
