"""Samples as one batch: one row without padding, or rows of one length as the original has them.

Shapes: T tokens of all samples; B samples; L tokens of a padded row; N chunks of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plm_core.errors import InputError
from plm_core.lm.chat import IGNORE
from plm_core.lm.data.sample import Sample


def pack(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return samples as the documents of one row without padding.

    Attention must not cross the documents. No token of a document is predicted from another one: the first of each is
    no target.

    Args:
        samples: The samples, at least one.

    Returns:
        ``input_ids`` and ``labels`` [1, T]; ``position_ids`` [1, T], from 0 in each document; ``lengths``, the number
        of tokens in each document; ``media_positions``, the places of the placeholders in the row; ``pixel_values``
        [N, 3, S, S], the chunks in the order of their placeholders, or None.

    Raises:
        InputError: There is no sample, or their chunks have several sizes.
    """
    if not samples:
        raise InputError("there are no samples to pack")
    lengths = torch.tensor([len(sample.input_ids) for sample in samples])
    starts = lengths.cumsum(0) - lengths
    labels = torch.cat([sample.labels for sample in samples])
    labels[starts[lengths > 0]] = IGNORE
    media = [sample.media_positions + start for sample, start in zip(samples, starts.tolist(), strict=True)]
    return {
        "input_ids": torch.cat([sample.input_ids for sample in samples])[None],
        "labels": labels[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
        "lengths": lengths,
        "media_positions": torch.cat(media),
        "pixel_values": _chunks(samples),
    }


def pad(samples: Sequence[Sample], length: int, pad_id: int) -> dict[str, Any]:
    """Return samples as rows of one length, as the original trains on them.

    The original gives a text sample a chunk of ones, which it encodes and then leaves out. Here it has none.

    Args:
        samples: The samples, at least one.
        length: The length of the rows.
        pad_id: The token that fills them up.

    Returns:
        ``x`` [B, L], all ids but the last; ``y`` [B, L], the next id where it is a target; ``mask`` [B, L], where that
        is; ``image_pos_index`` [B, L], the number of a placeholder in its row, else -1; ``images`` [N, 3, S, S] or
        None; ``num_chunks`` and ``media_type`` of each sample.

    Raises:
        InputError: There is no sample, one is longer than the rows, or their chunks have several sizes.
    """
    if not samples:
        raise InputError("there are no samples to pad")
    x, y = (torch.full((len(samples), length), pad_id) for _ in range(2))
    mask = torch.zeros((len(samples), length), dtype=torch.bool)
    index = torch.full((len(samples), length), -1)
    for row, sample in enumerate(samples):
        count = len(sample.input_ids) - 1
        if count > length:
            raise InputError(f"sample {row} has {count + 1} tokens; rows of {length} hold at most {length + 1}")
        following = sample.labels[1:]
        x[row, :count] = sample.input_ids[:-1]
        mask[row, :count] = following != IGNORE
        y[row, :count] = torch.where(following != IGNORE, following, pad_id)
        media = sample.media_positions[sample.media_positions < count]
        index[row, media] = torch.arange(len(media))
    return {
        "x": x,
        "y": y,
        "mask": mask,
        "images": _chunks(samples),
        "image_pos_index": index,
        "num_chunks": [0 if sample.chunks is None else len(sample.chunks) for sample in samples],
        "media_type": [sample.kind for sample in samples],
    }


def _chunks(samples: Sequence[Sample]) -> Tensor | None:
    """Return the chunks of all samples; None if there are none."""
    chunks = [sample.chunks for sample in samples if sample.chunks is not None]
    sizes = {tuple(part.shape[1:]) for part in chunks}
    if len(sizes) > 1:
        raise InputError(f"the samples have chunks of several sizes: {', '.join(map(str, sorted(sizes)))}")
    return torch.cat(chunks) if chunks else None
