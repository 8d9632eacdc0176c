"""One conversation as a language model takes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plm_core.lm.chat import MediaType


@dataclass(frozen=True)
class Sample:
    """One conversation as a language model takes it.

    Shapes: L tokens; K placeholders; N chunks of S x S pixels.
    """

    input_ids: Tensor
    """[L], long."""
    labels: Tensor
    """[L], long: the id of each target, else -100. They are not shifted."""
    media_positions: Tensor
    """[K], long: the places of the placeholders."""
    chunks: Tensor | None
    """[N, 3, S, S], normalised pixels; None without media."""
    kind: MediaType
    """What the chunks are."""
