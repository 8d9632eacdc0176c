"""A trunk and heads: models that are merged up to a place, and go on each for itself from there.

The parts are cut out of the model by torch.fx, which looks into those modules only that the place is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from plm_core import NotSupported


class Merged(nn.Module):
    """Models that share their first part.

    Args:
        trunk: The part that they share.
        heads: The rest of each model.

    Attributes:
        trunk: A module of the layers before the cut, under their names in the model.
        heads: A list of modules of the layers after it.
    """

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Any, *others: Any) -> list[Any]:
        """Return the outputs of the models, one for each head."""
        x = self.trunk(x, *others)
        return [head(x) for head in self.heads]


class Unmerge(nn.Module):
    """Give each feature of a model the merged feature that it is in.

    Args:
        indices: The place of the merged feature for each place, int64, by the dimension.
    """

    def __init__(self, indices: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.dims = tuple(indices)
        for dim, index in indices.items():
            self.register_buffer(f"index_{dim}", index)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        for dim in self.dims:
            x = x.index_select(dim, self.get_buffer(f"index_{dim}"))
        return x


def cut_in_two(model: nn.Module, modules: Sequence[str]) -> tuple[nn.Module, nn.Module]:
    """Cut a model before a module.

    Args:
        model: The model. The parts share its modules.
        modules: The names of modules whose one input is the tensor between the parts.

    Returns:
        The part before, and the part after.

    Raises:
        NotSupported: torch.fx cannot trace the modules that the place is in.
    """
    errors: list[str] = []
    for name in modules:
        try:
            graph = _Tracer(name).trace(model)
        except Exception as e:  # torch.fx raises errors of many kinds
            errors.append(str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__)
            continue
        node = next((node for node in graph.nodes if node.op == "call_module" and node.target == name), None)
        if node is not None and isinstance(node.args[0] if node.args else None, fx.Node):
            return _part(model, graph, None, node.args[0]), _part(model, graph, node.args[0], None)
        errors.append(f"module {name!r} is not called with a tensor")
    raise NotSupported(
        f"model {type(model).__name__} cannot be cut before {modules[0]!r}: {errors[0]}; merge all of it, or cut at "
        "another place"
    )


class _Tracer(fx.Tracer):
    """A tracer that looks into those modules only that a module is in."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inside = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays as it is."""
        return module_qualified_name not in self.inside


def _part(model: nn.Module, graph: fx.Graph, start: fx.Node | None, end: fx.Node | None) -> nn.Module:
    """Return the part of a model from one node to another."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if start is not None:
        copies[start] = part.placeholder("x")
    wanted = graph.output_node().args[0] if end is None else end
    needed = _needed(wanted, set(copies))
    for node in graph.nodes:
        if node in needed:
            copies[node] = part.node_copy(node, lambda n: copies[n])
    part.output(fx.map_arg(wanted, lambda n: copies[n]))
    module = fx.GraphModule(model, part)
    module.delete_all_unused_submodules()
    return module


def _needed(wanted: Any, given: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes that a result needs, besides those that are given."""
    needed: set[fx.Node] = set()
    stack: list[fx.Node] = []
    fx.map_arg(wanted, stack.append)
    while stack:
        node = stack.pop()
        if node not in needed and node not in given:
            needed.add(node)
            stack += node.all_input_nodes
    return needed
