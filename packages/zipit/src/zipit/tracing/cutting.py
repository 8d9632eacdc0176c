"""Where a model can be cut in two: at a tensor that everything after it depends on, and nothing else before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from zipit.tracing.groups import Group
from zipit.tracing.labels import Ints, Labels, covers
from zipit.tracing.program import Trace
from zipit.tracing.sites import boundaries, depends, lies


@dataclass(frozen=True)
class Cut:
    """A place where a model can be cut.

    Attributes:
        node: The tensor between the two parts.
        modules: The modules with this tensor as their one input, the outermost first.
        places: The dimension and the places, [times, size], of each group that lies on the tensor, by its number.
    """

    node: Node
    modules: tuple[str, ...]
    places: dict[int, tuple[int, Ints]]

    @property
    def name(self) -> str:
        """Return the first of the modules that has none of the others inside."""
        inner = (name for name in self.modules if not any(other.startswith(f"{name}.") for other in self.modules))
        return next(inner)


def cuts_of(traced: Trace, groups: list[Group], group_of: Ints, place_of: Ints) -> list[Cut]:
    """Return the places where a model can be cut, in the order of its program."""
    edges = boundaries(traced)
    order = {node: place for place, node in enumerate(traced.nodes)}
    result = []
    last = -1  # the last use of any tensor before
    for place, node in enumerate(traced.nodes):
        if not depends(traced, node) or node.op == "output":
            continue
        if node.op == "call_function" and last <= place and node in edges.takers:
            places = _places(traced, node, groups, group_of, place_of)
            if places:
                result.append(Cut(node, tuple(edges.takers[node]), places))
        last = max([last, *(order[user] for user in node.users)])
    return result


def _places(
    traced: Trace, node: Node, groups: list[Group], group_of: Ints, place_of: Ints
) -> dict[int, tuple[int, Ints]]:
    """Return where groups lie on a tensor, or nothing if some of its features are not whole groups."""
    labels = traced.values[node]
    if not isinstance(labels, Labels) or not labels.arrays or any(len(covers(x)) != 1 for x in labels.arrays):
        return {}
    result = {}
    for number in {int(group) for x in labels.arrays for group in np.unique(group_of[x])}:
        if groups[number].is_fixed:
            continue
        place = lies(traced, node, number, groups[number].size, group_of, place_of)
        if place is None:
            return {}
        result[number] = place
    return result


def tensors_by_side(traced: Trace, node: Node | None) -> tuple[set[str], set[str]]:
    """Return the names of the parameters and buffers that are used up to a tensor, and of those used after it.

    For None, all that are used are before it.
    """
    order = {other: place for place, other in enumerate(traced.nodes)}
    end = len(order) if node is None else order[node]
    before: set[str] = set()
    after: set[str] = set()
    for name, placeholder in traced.placeholders.items():
        for user in _uses(traced, placeholder):
            (before if order[user] <= end else after).add(name)
    return before, after


def _uses(traced: Trace, node: Node) -> Iterator[Node]:
    """Return the operations that combine a parameter, or what is computed from parameters alone, with an input."""
    for user in node.users:
        if user.op == "output" or depends(traced, user):
            yield user
        else:
            yield from _uses(traced, user)
