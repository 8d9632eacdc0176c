"""Gathering rows by an index of its own for each sample, such as the tokens that a transform keeps."""

from __future__ import annotations

from torch import Tensor


def take_rows(x: Tensor, index: Tensor, dim: int = 1) -> Tensor:
    """Take rows along a dimension, others in each sample: x [B, ..., N, ...] and index [B, n] -> [B, ..., n, ...].

    This equals ``torch.take_along_dim``, which would fix the batch size of a model exported with a dynamic batch.
    """
    batch, count = index.shape
    index = index.view(batch, *[1] * (dim - 1), count, *[1] * (x.ndim - dim - 1))
    return x.gather(dim, index.expand(-1, *x.shape[1:dim], -1, *x.shape[dim + 1 :]))
