"""Where in a model the features of a group can be seen, and where a model can be cut in two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from zipit.tracing.groups import Group
from zipit.tracing.labels import Ints, Labels, covers
from zipit.tracing.program import Trace, modules_of

PASSED = {
    *("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "mean", "amax", "flatten", "view", "reshape", "select", "slice", "dropout", "clone"),
    *("contiguous", "to", "squeeze", "unsqueeze", "permute", "transpose"),
}
"""Operations between a feature and the weight that uses it, before which there is more of the feature to be seen."""
CONTRACTIONS = {
    *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "matmul", "mm", "bmm", "addmm"),
}


@dataclass(frozen=True)
class Site:
    """A place in a model where the features of a group can be seen.

    Attributes:
        module: The name of a module.
        output: Whether the features are in its output, and not in its input.
        dim: The dimension that they lie on.
        places: The places of each feature, [times, size].
        rank: The rank of the tensor.
    """

    module: str
    output: bool
    dim: int
    places: Ints
    rank: int


@dataclass(frozen=True)
class Boundaries:
    """The tensors that go into modules and come out of them.

    Attributes:
        takers: The modules with a tensor as their one input, the outermost first.
        makers: The modules with a tensor as their one output.
    """

    takers: Mapping[Node, list[str]]
    makers: Mapping[Node, list[str]]


def boundaries(traced: Trace) -> Boundaries:
    """Return the tensors that go into the modules of a program and come out of them."""
    entering: dict[str, dict[Node, None]] = {}
    leaving: dict[str, dict[Node, None]] = {}
    inside = {node: set(modules_of(node)) for node in traced.nodes}
    for node in traced.nodes:
        for module in modules_of(node) if node.op == "call_function" else ():
            outer = [x for x in node.all_input_nodes if module not in inside[x] and depends(traced, x)]
            entering.setdefault(module, {}).update(dict.fromkeys(outer))
            if any(module not in inside[user] for user in node.users):
                leaving.setdefault(module, {})[node] = None
    return Boundaries(takers=_single(entering), makers=_single(leaving))


def _single(nodes_of: Mapping[str, Mapping[Node, None]]) -> dict[Node, list[str]]:
    """Return the modules with a single tensor, by the tensor."""
    found: dict[Node, list[str]] = {}
    for module, nodes in nodes_of.items():
        if module and len(nodes) == 1:
            found.setdefault(next(iter(nodes)), []).append(module)
    return found


def depends(traced: Trace, node: Node) -> bool:
    """Return whether a node is a tensor that depends on the input of the model."""
    value = traced.values.get(node)
    values = value if isinstance(value, list) else [value]
    return any(isinstance(labels, Labels) and not labels.weight for labels in values)


def operation(node: Node) -> str:
    """Return the name of the operation of a node."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).rpartition("::")[2].rstrip("_") if schema else str(node.target)


def lies(traced: Trace, node: Node, group: int, size: int, group_of: Ints, place_of: Ints) -> tuple[int, Ints] | None:
    """Return the dimension of a tensor on which all features of a group lie, and their places, [times, size]."""
    labels = traced.values.get(node)
    if not isinstance(labels, Labels):
        return None
    for array in labels.arrays:
        if len(covers(array)) != 1:
            continue
        flat = array.ravel()
        places = np.flatnonzero(group_of[flat] == group)
        if len(places) and len(places) % size == 0:
            order = place_of[flat[places]]
            if (np.bincount(order, minlength=size) == len(places) // size).all():
                by_feature = places[np.argsort(order, kind="stable")].reshape(size, -1).T
                return next(iter(covers(array))), by_feature
    return None


def sites(
    traced: Trace, groups: list[Group], group_of: Ints, place_of: Ints, until: Node | None = None
) -> list[Site | None]:
    """Return for each group where its features are best seen: in what the last weight that uses them is given.

    A pool or a choice of tokens between is passed over, so that all that the weight depends on is seen. With ``until``,
    what comes after this tensor is not looked at.
    """
    edges = boundaries(traced)
    nodes = traced.nodes if until is None else traced.nodes[: traced.nodes.index(until) + 1]
    using, showing = _seen(traced, nodes, group_of)
    result: list[Site | None] = []
    for number, group in enumerate(groups):
        site = None
        if not group.is_fixed and group.axes:
            end = [] if until is None else [until]
            chain = _chain(using[number][-1]) if number in using else []
            for node in [*end, *reversed(chain), *reversed(showing.get(number, []))]:
                place = lies(traced, node, number, group.size, group_of, place_of)
                site = _site(edges, node, place, traced) if place else None
                if site:
                    break
        result.append(site)
    return result


def _seen(traced: Trace, nodes: Iterable[Node], group_of: Ints) -> tuple[dict[int, list[Node]], dict[int, list[Node]]]:
    """Return the inputs of weights that each group lies on, and all tensors that it lies on, by its number."""
    using: dict[int, list[Node]] = {}
    showing: dict[int, list[Node]] = {}
    for node in nodes:
        if node.op == "call_function":
            for number in _groups_on(traced, node, group_of):
                showing.setdefault(number, []).append(node)
            sources = node.all_input_nodes[:2] if operation(node) in CONTRACTIONS else []
            for source in sources:
                for number in _groups_on(traced, source, group_of):
                    using.setdefault(number, []).append(source)
    return using, showing


def _groups_on(traced: Trace, node: Node, group_of: Ints) -> Iterable[int]:
    labels = traced.values.get(node)
    if not isinstance(labels, Labels) or labels.weight:
        return []
    arrays = [array for array in labels.arrays if len(covers(array)) == 1]
    return {int(group) for array in arrays for group in np.unique(group_of[array])}


def _chain(node: Node) -> list[Node]:
    """Return a tensor and those that it was made of by pools and changes of shape."""
    chain = [node]
    while node.op == "call_function" and operation(node) in PASSED and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
        chain.append(node)
    return chain


def _site(edges: Boundaries, node: Node, place: tuple[int, Ints], traced: Trace) -> Site | None:
    rank = traced.values[node].ndim
    if node in edges.takers:
        return Site(edges.takers[node][-1], False, *place, rank)
    if node in edges.makers:
        return Site(edges.makers[node][0], True, *place, rank)
    return None
