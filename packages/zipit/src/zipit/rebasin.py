"""Matching by the weights alone, without data: the permutations of Git Re-Basin (arXiv 2209.04836, section 3.2).

The permutation of one group is the best for the products of the weights of both models, given those of all others. One
after another is found so, until none changes. In the first round, weights count only if all other groups on them have
been visited: those of groups to come would be noise, in which the search gets stuck.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zipit.aligning import align
from zipit.matching import Floats, Groups, matcher_of
from zipit.tracing.groups import Axis, Group
from zipit.zipping import Zip, maps_of, only, zipped

ROUNDS = 100
"""The most rounds over all groups. A few are enough for most models."""


@torch.no_grad()
def align_by_weights(
    groups: Sequence[Group], states: Sequence[Mapping[str, Tensor]], chosen: Sequence[int]
) -> dict[int, Groups]:
    """Return the merged feature that each feature of all models becomes, by the number of the group.

    Args:
        groups: The groups.
        states: The parameters and buffers of each model.
        chosen: The numbers of the groups that are merged.
    """
    others = [_matched(groups, states[0], state, chosen) for state in states[1:]]
    first = {number: np.arange(groups[number].size) for number in chosen}
    return {number: np.concatenate([first[number], *(own[number] for own in others)]) for number in chosen}


def _matched(
    groups: Sequence[Group], first: Mapping[str, Tensor], other: Mapping[str, Tensor], chosen: Sequence[int]
) -> dict[int, Groups]:
    """Return the feature of the first model that each feature of another is assigned to."""
    current: dict[int, Groups] = {}
    for _ in range(ROUNDS):
        before = dict(current)
        for unit in _units(groups, chosen):
            products = {n: _products(groups, n, first, other, current, chosen) for n in unit if groups[n].axes}
            found = align(groups, products, unit, 2, matcher_of("permute", 2))
            current.update({number: pair[len(pair) // 2 :] for number, pair in found.items()})
        if before and all(np.array_equal(current[number], order) for number, order in before.items()):
            break
    return current


def _units(groups: Sequence[Group], chosen: Sequence[int]) -> list[list[int]]:
    """Return the groups that are assigned together: blocks and what is in them."""
    units: dict[int, list[int]] = {}
    for number in chosen:
        top = number
        while groups[top].owner >= 0:
            top = groups[top].owner
        units.setdefault(top, []).append(number)
    return list(units.values())


def _products(
    groups: Sequence[Group],
    number: int,
    first: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    current: Mapping[int, Groups],
    chosen: Sequence[int],
) -> Floats:
    """Return the products of the weights of the features of both models, [2 n, 2 n], with those across alone."""
    size = groups[number].size
    total = np.zeros((2 * size, 2 * size))
    for tensor in {axis.tensor for axis in groups[number].axes}:
        if any(n != number and n not in current for n in _lying(groups, tensor, chosen)):
            continue
        rest = {
            n: np.concatenate([np.arange(groups[n].size), current[n]])
            for n in _lying(groups, tensor, current)
            if n != number
        }
        found = maps_of(rest, 2, eps=0.0)[1]
        maps = {n: Zip(own.index, torch.ones_like(own.scale)) for n, own in found.items()}  # permutations, no means
        moved = zipped({tensor: other[tensor]}, [only(group, {tensor}) for group in groups], maps)[tensor]
        for axis in groups[number].axes:
            if axis.tensor == tensor:
                total[:size, size:] += _rows(first[tensor], axis) @ _rows(moved, axis).T
    return total


def _lying(groups: Sequence[Group], tensor: str, numbers: Iterable[int]) -> set[int]:
    """Return which groups lie on a tensor."""
    return {n for n in numbers if only(groups[n], {tensor}).axes or only(groups[n], {tensor}).grouped}


def _rows(x: Tensor, axis: Axis) -> Floats:
    """Return what a tensor has for each feature, float64 [n, values]."""
    rows = x.movedim(axis.dim, 0)[torch.from_numpy(axis.places.T).to(x.device)]  # n, times, values
    values: Floats = rows.reshape(len(rows), -1).double().cpu().numpy()
    return values
