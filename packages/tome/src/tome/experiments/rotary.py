"""Token Merging in a rotary model with other positions for merged tokens, or with other keys for the matching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plm_core.blocks import BlockView
from tome.api import applied, remove
from tome.matching import Matching
from tome.vit.blocks import MergeState, MergingBlock
from tome.vit.transform import install_plans, installed_plans

Place = Literal["destination", "source", "mean of angles", "random"]


@dataclass(frozen=True)
class Placing(MergingBlock):
    """A `MergingBlock` for rotary models that gives merged tokens another position, or matches tokens by other keys."""

    place: Place = "destination"
    """The position of a merged token: that of the token the others merged into ("destination"); that of the most
    similar token that merged into it ("source"); the mean over its patches, with each pair of sine and cosine scaled
    back to the unit circle ("mean of angles"); or that of any token ("random"), to see whether position matters at
    all."""
    rotated_keys: bool = False
    """Match tokens by their keys after rotation, as attention uses them, instead of before."""

    def __call__(
        self, view: BlockView, x: Tensor, state: MergeState | None, unmerge: bool = False, **context: Any
    ) -> tuple[Tensor, MergeState]:
        """Run the block as `MergingBlock` does, then give merged tokens the position that ``place`` names."""
        if self.rotated_keys:
            view = replace(view, unrotate=lambda key, **context: key)
        if self.place == "mean of angles":
            view = replace(view, average=partial(_mean_of_angles, view))
        count = x.shape[1]
        x, new_state = super().__call__(view, x, state, unmerge, **context)
        matching = new_state.matching
        if matching is not None and self.place in ("source", "random"):
            positions = self._positions(matching, count)
            place = positions if state is None or state.place is None else state.place.gather(1, positions)
            return x, replace(new_state, place=place)
        return x, new_state

    def _positions(self, matching: Matching, count: int) -> Tensor:
        """Return, for each token left, which of the ``count`` tokens before merging gives it its position, [B, n]."""
        batch, r = matching.merged.shape
        rank = torch.arange(r, device=matching.merged.device).expand(batch, -1)  # the most similar are first
        first = torch.full_like(matching.kept, r).scatter_reduce(1, matching.into, rank, "amin")
        if self.place == "source":
            other = matching.merged.gather(1, first.clamp(max=r - 1))
        else:
            other = torch.randint_like(matching.kept, self.prefix, count)
        return torch.where(first < r, other, matching.kept)


def _mean_of_angles(view: BlockView, context: Mapping[str, Any], group: Tensor, size: Tensor) -> Mapping[str, Any]:
    """Average the context of a block as ``view.average`` does, and scale the pairs of sine and cosine to length one."""
    assert view.average is not None  # the experiments' models are of timm, whose adapter has one
    averaged = view.average(context, group, size)
    sin, cos = averaged["rope"].chunk(2, -1)
    length = torch.hypot(sin, cos).clamp(min=1e-6)
    return {**averaged, "rope": torch.cat([sin / length, cos / length], -1)}


@contextmanager
def placing(model: nn.Module, r: int, place: Place = "destination", rotated_keys: bool = False) -> Iterator[nn.Module]:
    """Apply Token Merging with `Placing` blocks to a model, for the duration of a ``with`` block."""
    with applied(model, r, positions="mean" if place == "mean of angles" else "destination"):
        plans = installed_plans(model)
    options: dict[str, Any] = {"place": place, "rotated_keys": rotated_keys}
    install_plans([replace(plan, forward=Placing(**vars(plan.forward), **options)) for plan in plans])
    try:
        yield model
    finally:
        remove(model)
