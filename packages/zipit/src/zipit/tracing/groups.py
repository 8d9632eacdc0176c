"""Groups of features that may change places with each other, from the labels of a program.

Labels that are joined are one feature. Features of one group have the same marks, lie on the same dimensions of the
same tensors, and have owners of one group. So any order of the features of a group that keeps blocks together leaves
the function of the model as it is, if all tensors are changed alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from zipit.tracing.labels import Features, Ints
from zipit.tracing.program import Trace

ROUNDS = 6
"""How often the colours of owners and of what they own are passed on to each other."""
DEPTH = 8
"""The most blocks that are inside of each other."""


@dataclass(frozen=True)
class Axis:
    """A dimension of a parameter or buffer on which the features of a group lie.

    Attributes:
        tensor: The name of the parameter or buffer.
        dim: The dimension.
        places: The places of each feature, [times, size]: a feature may lie there several times.
        consumed: Whether the features come from the input of a weight. Otherwise the tensor makes or scales them.
    """

    tensor: str
    dim: int
    places: Ints
    consumed: bool


@dataclass(frozen=True)
class GroupedWeight:
    """The second dimension of the weight of a grouped convolution, whose features differ by the group.

    Attributes:
        tensor: The name of the weight, [out, in / groups, *].
        groups: Number of groups of the convolution.
        features: The number of the feature at each place, in the group ``owner`` below, [groups, in / groups].
    """

    tensor: str
    groups: int
    features: Ints


@dataclass
class Group:
    """Features that may change places.

    Attributes:
        name: The module that makes them.
        size: Number of features.
        axes: Where they lie in parameters and buffers.
        grouped: Weights of grouped convolutions that they are the input of.
        owner: The number of the group of their blocks, or -1.
        blocks: The block of each feature, as a number in that group, [size].
    """

    name: str
    size: int
    axes: list[Axis] = field(default_factory=list)
    grouped: list[GroupedWeight] = field(default_factory=list)
    owner: int = -1
    blocks: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def is_fixed(self) -> bool:
        """Return whether the features cannot change places."""
        return self.size == 1 and self.owner < 0


def groups_of(traced: Trace) -> tuple[list[Group], Ints, Ints]:
    """Return the groups of a program, and for each label its group and its feature there."""
    features = traced.features
    classes, owner_of = _classes(features)
    number, members = _sorted(_colours(traced, classes, owner_of), classes)
    group_of, place_of = number[classes], members[classes]
    groups = [Group("", int(size)) for size in np.bincount(number, minlength=number.max(initial=-1) + 1)]
    _own(groups, owner_of, number, members)
    _lay(groups, traced, group_of, place_of)
    return groups, group_of, place_of


# --- features and their blocks --------------------------------------------------------------------------------------


def _classes(features: Features) -> tuple[Ints, Ints]:
    """Return the feature of each label, and the block of each feature, also a feature, or -1."""
    joins = list(features.joins)
    owners = list(features.owners)
    while True:
        classes = _components(features.count, joins)
        owner_of = np.full(classes.max(initial=-1) + 1, -1)
        changed = False
        for event in list(owners):
            _, children, parents = event
            child, parent = classes[children], classes[parents]
            more = _differing(owner_of, child, parent)
            if more is None:  # blocks of two kinds that cross: these features keep their places in the second kind
                owners.remove(event)
                features.mark(children, parents)
                features.fix(np.unique(parents))
                changed = True
                continue
            if len(more):
                joins.append((_any_label(classes, more[:, 0]), _any_label(classes, more[:, 1])))
                changed = True
            owner_of[child] = parent
        if not changed:
            return classes, owner_of


def _differing(owner_of: Ints, child: Ints, parent: Ints) -> Ints | None:
    """Return pairs of blocks that are one, as the same features are in both; None if that cannot be.

    It cannot be if a feature would be in two blocks of one kind, two blocks would become one, or a block its own part.
    """
    known = owner_of[child]
    pairs = np.unique(np.stack([parent, known], 1)[known >= 0], axis=0)
    alone = np.unique(np.stack([child, parent], 1), axis=0)
    above = parent
    for _ in range(DEPTH):
        if (above == child).any():
            return None
        above = np.where(above >= 0, owner_of[above], -1)
    if not _is_one_to_one(pairs) or not _is_one_to_one(alone, False):
        return None
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _components(count: int, joins: list[tuple[Ints, Ints]]) -> Ints:
    if not joins:
        return np.arange(count)
    one, other = (np.concatenate(side) for side in zip(*joins, strict=True))
    edges = coo_matrix((np.ones(len(one), dtype=bool), (one, other)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _is_one_to_one(pairs: Ints, both: bool = True) -> bool:
    """Return whether no left side has two right sides, and, with ``both``, no right side two left ones."""
    sides = (0, 1) if both else (0,)
    return all(len(np.unique(pairs[:, side])) == len(pairs) for side in sides)


def _any_label(classes: Ints, wanted: Ints) -> Ints:
    first = np.full(classes.max() + 1, -1)
    first[classes[::-1]] = np.arange(len(classes))[::-1]
    return first[wanted]


# --- groups ---------------------------------------------------------------------------------------------------------


def _mixed(x: NDArray[Any], salt: int = 0) -> NDArray[np.uint64]:
    """Return well mixed bits of numbers, so that sums of them tell sets apart (splitmix64)."""
    with np.errstate(over="ignore"):
        z = (
            x.astype(np.uint64)
            + np.uint64(salt % 2**63) * np.uint64(0xD1342543DE82EF95)
            + np.uint64(0x9E3779B97F4A7C15)
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _colours(traced: Trace, classes: Ints, owner_of: Ints) -> NDArray[np.uint64]:
    """Return a number for each feature that is the same for those that may change places."""
    features = traced.features
    count = len(owner_of)
    colour = np.zeros(count, dtype=np.uint64)
    for event, labels, marks in features.marks:
        np.add.at(colour, classes[labels], _mixed(marks, 2 * event))
    for number, (_, _, labels) in enumerate(_axes(traced)):
        np.add.at(colour, classes[labels], _mixed(np.zeros(len(labels), dtype=np.int64), 2 * number + 1))
    for inner, outer in features.grouped:
        np.add.at(colour, classes[outer.ravel()], _mixed(np.full(outer.size, inner[0]), -7))
    child = np.flatnonzero(owner_of >= 0)
    parent = owner_of[child]
    for _ in range(ROUNDS):
        new = _mixed(colour)
        np.add.at(new, child, _mixed(colour[parent], 11))
        np.add.at(new, parent, _mixed(colour[child], 13))
        colour = new
    return colour


def _axes(traced: Trace) -> list[tuple[str, int, Ints]]:
    """Return the dimensions with labels of all tensors, but not those that grouped convolutions share."""
    shared = {int(inner[0]) for inner, _ in traced.features.grouped}
    return [
        (name, dim, labels)
        for name, along in traced.tensors.items()
        for dim, labels in enumerate(along)
        if labels is not None and int(labels[0]) not in shared
    ]


def _sorted(colours: NDArray[np.uint64], classes: Ints) -> tuple[Ints, Ints]:
    """Return the group of each feature and its number there, both in the order of the first labels."""
    first = np.full(len(colours), len(classes))
    np.minimum.at(first, classes, np.arange(len(classes)))
    order = np.argsort(first)
    _, start, number = np.unique(colours[order], return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(start))[number]
    members = np.zeros(len(order), dtype=np.int64)
    by_group = np.argsort(number, kind="stable")
    sizes = np.bincount(number)
    members[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    group = np.empty(len(order), dtype=np.int64)
    place = np.empty(len(order), dtype=np.int64)
    group[order], place[order] = number, members
    return group, place


def _own(groups: list[Group], owner_of: Ints, number: Ints, members: Ints) -> None:
    """Note the blocks of the features of each group."""
    child = np.flatnonzero(owner_of >= 0)
    for group in np.unique(number[child]):
        own = child[number[child] == group]
        own = own[np.argsort(members[own])]
        groups[group].owner = int(number[owner_of[own[0]]])
        groups[group].blocks = members[owner_of[own]]


def _lay(groups: list[Group], traced: Trace, group_of: Ints, place_of: Ints) -> None:
    """Note where the features of each group lie in parameters and buffers."""
    consumed = np.zeros(traced.features.count, dtype=bool)
    for labels in traced.features.consumed:
        consumed[labels] = True
    starts: dict[int, str] = {}
    starts.update({int(x[0]): name for name, along in traced.tensors.items() for x in along if x is not None})
    for name, dim, labels in _axes(traced):
        for group in np.unique(group_of[labels]):
            places = np.flatnonzero(group_of[labels] == group)
            places = places[np.argsort(place_of[labels[places]], kind="stable")]
            by_feature = places.reshape(groups[group].size, -1).T
            axis = Axis(name, dim, by_feature, bool(consumed[labels[places]].all()))
            groups[group].axes.append(axis)
            if not groups[group].name and not axis.consumed:
                groups[group].name = name.rpartition(".")[0] or name
    for inner, outer in traced.features.grouped:
        weight = starts.get(int(inner[0]))
        if weight is not None:
            owner = int(group_of[outer.ravel()[0]])
            groups[owner].grouped.append(GroupedWeight(weight, len(outer), place_of[outer]))
