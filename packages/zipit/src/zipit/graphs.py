"""`Graph`: the groups of features of a model, where they are seen, and where the model can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import Node

from plm_core import InputError
from zipit.tracing.cutting import Cut, cuts_of, tensors_by_side
from zipit.tracing.groups import Group, groups_of
from zipit.tracing.labels import Ints
from zipit.tracing.program import Trace, modules_of, trace
from zipit.tracing.sites import Site, depends, sites


@dataclass
class Graph:
    """The merge graph of a model.

    ``print(graph)`` lists the groups that can be merged.

    Attributes:
        traced: The program of the model with the labels of its tensors.
        groups: The groups of features that may change places. Those that cannot have size 1.
        group_of: The group of each label.
        place_of: The feature of each label in its group.
    """

    traced: Trace
    groups: list[Group]
    group_of: Ints
    place_of: Ints

    @property
    def merged(self) -> list[int]:
        """Return the numbers of the groups that are merged when everything is."""
        return self.chosen(None)

    @cached_property
    def cuts(self) -> list[Cut]:
        """Return the places where the model can be cut, in the order of its program."""
        return cuts_of(self.traced, self.groups, self.group_of, self.place_of)

    def cut_at(self, until: str | Sequence[str] | None) -> Cut | None:
        """Return the place before a module, or before several with the same input.

        Raises:
            InputError: The model cannot be cut there. The message names modules near it where it can.
        """
        if until is None:
            return None
        names = [until] if isinstance(until, str) else until
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise InputError(f"until is {until!r}; the name of a module, or a list of names, is expected")
        found = {name: next((cut for cut in self.cuts if name in cut.modules), None) for name in names}
        wrong = next((name for name, cut in found.items() if cut is None), None)
        if wrong is not None or not names:
            raise InputError(f"until is {until!r}; {self._why_not(wrong)}")
        cuts = [cut for cut in found.values() if cut is not None]
        if any(cut.node is not cuts[0].node for cut in cuts):
            raise InputError(f"until is {until!r}; modules with one and the same input are needed")
        return cuts[0]

    def _why_not(self, name: str | None) -> str:
        legal = [cut.name for cut in self.cuts]
        if name is None:
            return f"the name of a module is needed, such as {', '.join(map(repr, legal[:3]))}"
        ran = [place for place, node in enumerate(self.traced.nodes) if name in modules_of(node)]
        if not ran:
            return f"the model runs no module {name!r}; it can be cut before {_listed(legal)}"
        order = {node: place for place, node in enumerate(self.traced.nodes)}
        near = sorted(self.cuts, key=lambda cut: abs(order[cut.node] - ran[0]))[:2]
        names = " or ".join(repr(cut.name) for cut in near)
        why = "more than the input of this module goes on, as in a residual branch"
        if any(_is_input(self.traced, node) for node in self.traced.nodes[ran[0]].all_input_nodes):
            why = "this module takes the input of the model itself"
        return f"{why}; cut before {names or 'no module'}"

    def chosen(self, cut: Cut | None) -> list[int]:
        """Return the numbers of the groups that are merged up to a cut: those that a tensor before it makes."""
        before, _ = tensors_by_side(self.traced, cut.node if cut else None)
        numbers = {
            number
            for number, group in enumerate(self.groups)
            if not group.is_fixed and any(axis.tensor in before and not axis.consumed for axis in group.axes)
        }
        owners = {self.groups[number].owner for number in numbers} - {-1}
        return sorted(numbers | owners)

    def sites(self, cut: Cut | None = None) -> list[Site | None]:
        """Return where the features of each group are best seen, up to a cut."""
        return sites(self.traced, self.groups, self.group_of, self.place_of, cut.node if cut else None)

    def __str__(self) -> str:
        """Return a table of the groups."""
        lines = [f"{'features':>8}  {'blocks':>6}  {'made by':<32} {'seen in'}"]
        for number, site in zip(self.merged, [self.sites()[number] for number in self.merged], strict=True):
            group = self.groups[number]
            if not group.axes:  # blocks, which are in no tensor themselves
                continue
            blocks = str(len(np.unique(group.blocks))) if group.owner >= 0 else ""
            seen = f"{'output' if site.output else 'input'} of {site.module}" if site else ""
            lines.append(f"{group.size:>8}  {blocks:>6}  {group.name:<32} {seen}")
        fixed = sum(group.is_fixed and bool(group.axes) for group in self.groups)
        return "\n".join([*lines, f"{fixed} features of parameters keep their places"])


def graph(model: nn.Module, example: Tensor | tuple[Any, ...]) -> Graph:
    """Find the groups of features of a model that may change places.

    Args:
        model: The model, on any device.
        example: An input, or a tuple of all inputs. It should have two images or more.

    Raises:
        InputError: The model is no module, or the example is a list.
        NotSupported: The model cannot be traced.
    """
    traced = trace(model, example)
    return Graph(traced, *groups_of(traced))


def cuts(model: nn.Module, example: Tensor | tuple[Any, ...]) -> list[str]:
    """Return the modules before which a model can be cut, for ``until`` of `zipit.merge`, in the order of the program.

    Args:
        model: The model.
        example: See `graph`.
    """
    return [cut.name for cut in graph(model, example).cuts]


def _is_input(traced: Trace, node: Node) -> bool:
    return node.op == "placeholder" and depends(traced, node)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
