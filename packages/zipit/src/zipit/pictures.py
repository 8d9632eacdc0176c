"""The merge graph of a model as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plm_core.utils import plots
from zipit.graphs import Graph
from zipit.tracing.groups import Group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = "plm-core[tour]"
"""The extra that installs matplotlib."""
BLUE, ORANGE, GREY = "#3b6ea8", "#d9822b", "#b0b0b0"


def paint_graph(graph: Graph) -> Figure:
    """Paint the groups of features of a model.

    Each group is a box over the modules that it lies on, which stand side by side in the order of the program. A full
    dot is where a module makes its features, and a ring where one uses them. To the left stands the number of features,
    and of blocks, such as heads. To the right stands where they are seen. Features that keep their places are grey.

    Args:
        graph: The graph, see `zipit.graph`.

    Returns:
        A matplotlib figure, to be saved with ``savefig``.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    rows = _rows(graph)
    modules = _modules(graph, rows)
    column = {name: place for place, name in enumerate(modules)}
    rows.sort(key=lambda row: [f(_places(row[2], column), default=(len(modules), False)) for f in (min, max)])
    size = (5.0 + 0.22 * len(modules), 1.8 + 0.26 * len(rows))
    figure = plots.figure("a picture of a graph", EXTRA, figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for row, (left, right, group, free) in enumerate(rows):
        _box(axes, row, group, column, free)
        axes.text(-1.2, row, left, ha="right", va="center", fontsize=8, color="black" if free else "grey")
        axes.text(len(modules) + 0.2, row, right, va="center", fontsize=8, color="black" if free else "grey")
    axes.set_xticks(range(len(modules)), modules, rotation=90, fontsize=7)
    axes.xaxis.tick_top()
    axes.set_xlim(-1, len(modules))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _rows(graph: Graph) -> list[tuple[str, str, Group, bool]]:
    """Return the label, where it is seen, and whether it is free of each group; fixed features on one tensor once."""
    sites = graph.sites()
    rows: dict[Any, tuple[int, Group, str, bool]] = {}
    for number, group in enumerate(graph.groups):
        if not group.axes:
            continue
        site = sites[number]
        seen = f"{'output' if site.output else 'input'} of {site.module}" if site else ""
        key = tuple((axis.tensor, axis.dim) for axis in group.axes) if group.is_fixed else number
        count = rows[key][0] + group.size if key in rows else group.size
        rows[key] = (count, group, "keep their places" if group.is_fixed else seen, not group.is_fixed)
    return [(_label(count, group), seen, group, free) for count, group, seen, free in rows.values()]


def _label(count: int, group: Group) -> str:
    blocks = f" in {len(np.unique(group.blocks))} blocks" if group.owner >= 0 else ""
    return f"{count} feature{'s' if count > 1 else ''}{blocks}"


def _modules(graph: Graph, rows: list[tuple[str, str, Group, bool]]) -> list[str]:
    """Return the modules with weights that a group lies on, in the order of the program.

    A scale or a bias alone, as norms have it, is left out, unless a group lies on nothing else.
    """
    wide = {name for name, along in graph.traced.tensors.items() if len(along) > 1}
    named = {
        axis.tensor
        for _, _, group, _ in rows
        for axis in group.axes
        if axis.tensor in wide or not any(other.tensor in wide for other in group.axes)
    }
    return list(dict.fromkeys(_module(name) for name in _in_order(graph) if name in named))


def _in_order(graph: Graph) -> list[str]:
    """Return the parameters and buffers in the order in which the program first uses them."""
    order = {node: place for place, node in enumerate(graph.traced.nodes)}
    first = {
        name: min((order[user] for user in node.users), default=len(order))
        for name, node in graph.traced.placeholders.items()
    }
    return sorted(first, key=lambda name: first[name])


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _places(group: Group, column: dict[str, int]) -> set[tuple[int, bool]]:
    """Return the columns of a group, and whether the module uses its features there."""
    return {(column[_module(axis.tensor)], axis.consumed) for axis in group.axes if _module(axis.tensor) in column}


def _box(axes: Any, row: int, group: Group, column: dict[str, int], free: bool) -> None:
    """Draw a group from the first of its modules to the last, with a mark on each."""
    places = _places(group, column)
    if not places:
        return
    first, last = min(places)[0], max(places)[0]
    colour = BLUE if free else GREY
    axes.barh(row, last - first + 0.8, 0.6, left=first - 0.4, color=colour, alpha=0.35)
    for place, consumed in sorted(places):
        mark = {"mfc": "white", "mec": ORANGE if free else GREY} if consumed else {"mfc": colour, "mec": colour}
        axes.plot(place, row, "o", ms=5, **mark)
