"""Labels: which feature each place of a tensor belongs to, and what an operation asks of the features.

Every place along a dimension that features lie on has a number, its label. Labels that must move together are joined.
An operation leaves three kinds of traces:

- **join**: two labels are the same feature, as those of a sum's operands;
- **mark**: features with different marks may not change places, as those that meet different constants;
- **own**: features belong to a block, as the channels of a head do. Blocks may change places as a whole.

A `Labels` describes a tensor by some arrays of labels, each with the rank of the tensor. An array has the tensor's size
in the dimensions that its features lie on, and 1 in the others. No two arrays share a dimension. Dimensions that no
array covers, such as the batch, the height and the width, hold no features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass
class Features:
    """The labels that were given out, and the traces of all operations.

    Attributes:
        count: Number of labels.
        events: Number of traces of the kinds mark and own.
        joins: Pairs of arrays.
        marks: Number of the trace, labels and marks.
        owners: Number of the trace, labels and the labels of their blocks.
        consumed: Labels of weights along the dimension that their input has too.
        grouped: For the weight of a grouped convolution, its labels along the dimension of the input, [in / groups],
            and the features of all groups there, [groups, in / groups].
    """

    count: int = 0
    events: int = 0
    joins: list[tuple[Ints, Ints]] = field(default_factory=list)
    marks: list[tuple[int, Ints, Ints]] = field(default_factory=list)
    owners: list[tuple[int, Ints, Ints]] = field(default_factory=list)
    consumed: list[Ints] = field(default_factory=list)
    grouped: list[tuple[Ints, Ints]] = field(default_factory=list)

    def new(self, shape: Sequence[int]) -> Ints:
        """Return new labels."""
        size = math.prod(shape)
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def consume(self, labels: Ints) -> None:
        """Note that the places of a weight meet the features of its input, and do not make them."""
        self.consumed.append(labels.ravel())

    def join(self, one: Ints, other: Ints) -> None:
        """Note that two arrays have the same features."""
        self.joins.append((one.ravel(), other.ravel()))

    def mark(self, labels: Ints, marks: Ints) -> None:
        """Note that features with different marks may not change places."""
        self.events += 1
        self.marks.append((self.events, labels.ravel(), np.broadcast_to(marks, labels.shape).ravel()))

    def fix(self, labels: Ints) -> None:
        """Note that features may not change places at all."""
        self.mark(labels, np.arange(labels.size).reshape(labels.shape))

    def together(self, labels: Ints) -> None:
        """Note that features are used as one set, as those that a norm averages over."""
        self.mark(labels, np.zeros_like(labels))

    def own(self, labels: Ints, owners: Ints) -> None:
        """Note that features belong to blocks, which have labels themselves."""
        self.events += 1
        self.owners.append((self.events, labels.ravel(), np.broadcast_to(owners, labels.shape).ravel()))


@dataclass(frozen=True)
class Labels:
    """The features of a tensor.

    Attributes:
        shape: The shape of the tensor.
        arrays: Arrays of labels, see the module.
        weight: Whether the tensor is computed from parameters alone.
        same: Dimensions along which all values are known to be the same.
    """

    shape: tuple[int, ...]
    arrays: tuple[Ints, ...] = ()
    weight: bool = False
    same: frozenset[int] = frozenset()

    @property
    def ndim(self) -> int:
        """Return the rank of the tensor."""
        return len(self.shape)

    def of(self, dim: int) -> Ints | None:
        """Return the array that covers a dimension, or None."""
        dim %= self.ndim
        return next((x for x in self.arrays if x.shape[dim] > 1), None)

    def moved(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Labels:
        """Return the labels after an operation that numpy does alike, and that keeps or permutes dimensions."""
        shape = function(np.broadcast_to(np.int8(0), self.shape)).shape
        return Labels(shape, tuple(function(x) for x in self.arrays), self.weight)


def covers(x: Ints) -> frozenset[int]:
    """Return the dimensions that an array covers."""
    return frozenset(dim for dim, size in enumerate(x.shape) if size > 1)


# --- operations on places -------------------------------------------------------------------------------------------


def elementwise(features: Features, *operands: Labels) -> Labels:
    """Return the labels of a function of single places, such as a sum or a product, with broadcasting."""
    ndim = max(operand.ndim for operand in operands)
    result, *others = (_raised(operand, ndim) for operand in operands)
    for other in others:
        result = _pair(features, result, other)
    return result


def _raised(labels: Labels, ndim: int) -> Labels:
    lead = (1,) * (ndim - labels.ndim)
    arrays = tuple(x.reshape(*lead, *x.shape) for x in labels.arrays)
    same = frozenset(dim + len(lead) for dim in labels.same)
    return Labels((*lead, *labels.shape), arrays, labels.weight, same)


def _pair(features: Features, one: Labels, other: Labels) -> Labels:
    for this, that in ((one, other), (other, one)):
        labelled = frozenset[int]().union(*(covers(x) for x in that.arrays))
        for x in this.arrays:
            plain = [dim for dim in covers(x) if that.shape[dim] > 1 and dim not in labelled | that.same]
            if plain:
                features.mark(x, _places(x.shape, plain))
    arrays = []
    for group in _overlapping([*one.arrays, *other.arrays]):
        arrays += _met(features, group)
    shape = np.broadcast_shapes(one.shape, other.shape)
    return Labels(shape, tuple(arrays), one.weight and other.weight)


def _places(shape: Sequence[int], dims: Sequence[int]) -> Ints:
    """Number the places along some dimensions: an array that broadcasts to the shape."""
    sizes = [size if dim in dims else 1 for dim, size in enumerate(shape)]
    return np.arange(math.prod(sizes)).reshape(sizes)


def _overlapping(arrays: list[Ints]) -> list[list[Ints]]:
    """Sort arrays into sets that share dimensions."""
    sets: list[list[Ints]] = []
    for x in arrays:
        apart: list[list[Ints]] = []
        together = [x]
        for group in sets:
            if any(covers(x) & covers(y) for y in group):
                together = [*group, *together]
            else:
                apart.append(group)
        sets = [*apart, together]
    return sets


def _met(features: Features, group: list[Ints]) -> list[Ints]:
    """Return what is left of arrays that share dimensions, of one operand or of both."""
    if len(group) == 1:
        return group
    large, *small = sorted(group, key=lambda x: len(covers(x)), reverse=True)
    if len(small) == 1 and covers(small[0]) == covers(large):
        features.join(large, small[0])
        return [large]
    if all(covers(x) < covers(large) for x in small):
        for x in small:  # such as a factor for each head on the channels of the heads
            features.own(large, x)
        return [large]
    for x in group:
        features.fix(x)
    return []


# --- operations along dimensions ------------------------------------------------------------------------------------


def reduced(features: Features, labels: Labels, dims: Iterable[int], *, keep: bool = False) -> Labels:
    """Return the labels of a function of all places along dimensions in which their order is of no matter.

    A sum is one, and, with ``keep``, a softmax, which has an output for each place.
    """
    dims = _positive(dims, labels.ndim)
    arrays: list[Ints] = []
    for x in labels.arrays:
        rest = _set_apart(features, x, dims)
        left = x if keep else rest
        if left is not None:
            arrays.append(left)
    shape = labels.shape if keep else tuple(1 if dim in dims else size for dim, size in enumerate(labels.shape))
    return Labels(shape, tuple(arrays), labels.weight)


def in_order(features: Features, labels: Labels, dims: Iterable[int]) -> Labels:
    """Return the labels for an operation along dimensions in which the order matters, such as a convolution."""
    dims = _positive(dims, labels.ndim)
    arrays = []
    for x in labels.arrays:
        along = covers(x) & dims
        if along:
            features.mark(x, _places(x.shape, sorted(along)))
        rest = _set_apart(features, x, dims)
        if rest is not None:
            arrays.append(rest)
    return Labels(labels.shape, tuple(arrays), labels.weight)


def _positive(dims: Iterable[int], ndim: int) -> frozenset[int]:
    return frozenset(dim % ndim for dim in dims)


def _set_apart(features: Features, x: Ints, dims: frozenset[int]) -> Ints | None:
    """Make one feature of those along dimensions: the block that they form, or None if nothing else is covered."""
    if not covers(x) & dims:
        return x
    if covers(x) <= dims:
        features.together(x)
        return None
    owners = features.new([1 if dim in dims else size for dim, size in enumerate(x.shape)])
    features.own(x, owners)
    return owners


def joined(features: Features, parts: Sequence[Labels], dim: int) -> Labels:
    """Return the labels of tensors that are put one after another along a dimension."""
    dim %= parts[0].ndim
    size = sum(part.shape[dim] for part in parts)
    shape = tuple(size if d == dim else n for d, n in enumerate(parts[0].shape))
    weight = all(part.weight for part in parts)
    rest = [replace(part, shape=_one(part.shape, dim), arrays=tuple(x for x in part.arrays if x.shape[dim] == 1))
            for part in parts]  # fmt: skip
    arrays = elementwise(features, *rest).arrays
    along = [_along(features, part, dim) for part in parts]
    if any(part.of(dim) is not None for part in parts):
        shapes = {_one(x.shape, dim) for x in along}
        whole = None
        if len(shapes) == 1:
            whole = np.concatenate(along, dim)
        if whole is None or any(covers(whole) & covers(x) for x in arrays):
            for x in along:
                features.fix(x)
        else:
            arrays = (*arrays, whole)
    return Labels(shape, arrays, weight)


def _along(features: Features, part: Labels, dim: int) -> Ints:
    """Return the labels along a dimension. Places without features get some that stay where they are."""
    x = part.of(dim)
    if x is None:
        x = features.new([size if d == dim else 1 for d, size in enumerate(part.shape)])
        features.fix(x)
    return x


def _one(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return tuple(1 if d == dim else size for d, size in enumerate(shape))


def reshaped(features: Features, labels: Labels, shape: Sequence[int]) -> Labels:
    """Return the labels of the same values in another shape. A feature may then have several places in a dimension."""
    runs = [run for run in _runs(labels.shape, shape) if len(run[0]) != 1 or len(run[1]) != 1]
    moved = dict(_same(labels.shape, shape))
    arrays = []
    for x in labels.arrays:
        touched = [run for run in runs if covers(x) & frozenset(run[0])]
        wide = frozenset(dim for old, _ in touched for dim in old)
        full = np.broadcast_to(x, [labels.shape[dim] if dim in wide else size for dim, size in enumerate(x.shape)])
        sizes = [1] * len(shape)
        for dim in covers(x) - wide:
            sizes[moved[dim]] = x.shape[dim]
        for _, new in touched:
            for dim in new:
                sizes[dim] = shape[dim]
        arrays.append(_thinned(full.reshape(sizes)))
    kept = []
    for group in _overlapping(arrays):
        if len(group) > 1:
            for x in group:
                features.fix(x)
        else:
            kept += group
    return Labels(tuple(shape), tuple(kept), labels.weight)


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Divide two shapes of as many values into the shortest runs of dimensions with as many values."""
    runs = []
    i = j = 0
    while i < len(old) or j < len(new):
        here: list[int] = []
        there: list[int] = []
        left = right = 1
        while left != right or not (here or there):
            if (left <= right and i < len(old)) or j == len(new):
                here.append(i)
                left *= old[i]
                i += 1
            else:
                there.append(j)
                right *= new[j]
                j += 1
        runs.append((here, there))
    return runs


def _same(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int]]:
    """Return the dimensions that a change of shape leaves as they are, with their new numbers."""
    return [(here[0], there[0]) for here, there in _runs(old, new) if len(here) == len(there) == 1]


def _thinned(x: Ints) -> Ints:
    """Drop the dimensions along which the labels are the same."""
    for dim in covers(x):
        first = x.take([0], dim)
        if (x == first).all():
            x = first
    return x
