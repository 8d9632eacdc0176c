"""`check`: the proof that the graph of a model is right, for any architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zipit.aligning import align
from zipit.combining import combine, in_eval_mode, tensors_of
from zipit.graphs import Graph, graph
from zipit.matching import Groups, correlation, matcher_of
from zipit.statistics import covariances
from zipit.tracing.groups import Group
from zipit.tracing.program import arguments_of
from zipit.zipping import Zip, zipped

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        groups: Number of groups that can be merged.
        moved: Share of the features of parameters that a random permutation moved, from 0 to 1.
        permuted: Largest difference of the outputs after a random permutation of every group, relative to the largest
            output.
        own_copy: The same for a model that is zipped with a copy of itself.
        unknown: Operations whose features are not followed, with the module that runs them. Those keep their places.
    """

    groups: int
    moved: float
    permuted: float
    own_copy: float
    unknown: dict[str, str]

    @property
    def passed(self) -> bool:
        """Return whether both differences are at most 1e-5."""
        return max(self.permuted, self.own_copy) <= TOLERANCE

    def __bool__(self) -> bool:
        """Return whether the check is passed."""
        return self.passed


@torch.no_grad()
def check(model: nn.Module, example: Tensor | tuple[Any, ...], *, seed: int = 0) -> Check:
    """Check the merge graph of a model, in float64.

    A random permutation of all groups must leave the function of the model as it is, and a model that is zipped with
    its own copy must reproduce itself. Parameters that are equal, as the scales of a fresh norm, would hide a fault, so
    all are changed a little at random first.

    Args:
        model: The model. It is not changed.
        example: See `zipit.graph`.
        seed: Seed of the permutation and of the changes.

    Raises:
        InputError: See `zipit.graph`.
        NotSupported: The model cannot be traced.
    """
    inputs = tuple(_double(x) for x in arguments_of(model, example))
    rng = np.random.default_rng(seed)
    model = _stirred(model, rng)
    plan = graph(model, inputs)
    chosen = plan.chosen(None)
    with in_eval_mode([model]):
        expected = _flat(model(*inputs))
        permutations = permuted(plan.groups, rng)
        moved = copy.deepcopy(model)
        moved.load_state_dict(_permute(model, plan, permutations), strict=False)
        difference = _difference(_flat(moved(*inputs)), expected)
        own = _difference(_flat(_zipped_with_itself(model, plan, inputs, chosen)(*inputs)), expected)
    sizes = [plan.groups[number].size for number in chosen]
    shifted = sum(
        int((permutations[number] != np.arange(size)).sum()) for number, size in zip(chosen, sizes, strict=True)
    )
    return Check(len(chosen), shifted / max(sum(sizes), 1), difference, own, dict(plan.traced.unknown))


def permuted(groups: Sequence[Group], rng: np.random.Generator) -> list[Groups]:
    """Return a random order of the features of each group that keeps blocks together."""
    orders: dict[int, Groups] = {}

    def order(number: int) -> Groups:
        if number not in orders:
            group = groups[number]
            if group.owner < 0:
                orders[number] = rng.permutation(group.size)
            else:
                orders[number] = np.empty(group.size, dtype=np.int64)
                for here, there in enumerate(order(group.owner)):
                    from_there = rng.permutation(np.flatnonzero(group.blocks == there))
                    orders[number][group.blocks == here] = from_there
        return orders[number]

    return [order(number) for number in range(len(groups))]


def _permute(model: nn.Module, plan: Graph, orders: Sequence[Groups]) -> dict[str, Tensor]:
    maps = {}
    for number, group in enumerate(plan.groups):
        if not group.is_fixed:
            index = torch.from_numpy(np.argsort(orders[number]))
            maps[number] = Zip(index, torch.ones(group.size, dtype=torch.float64))
    return zipped(tensors_of(model), plan.groups, maps)


def _zipped_with_itself(model: nn.Module, plan: Graph, inputs: tuple[Any, ...], chosen: Sequence[int]) -> nn.Module:
    """Merge a model with its copy, by the features that are assigned to each other."""
    models = [model, model]
    sites = {number: site for number, site in enumerate(plan.sites()) if site and number in chosen}
    found = covariances(models, [inputs[0]], sites) if sites else {}
    similar = {number: correlation(value.numpy()) for number, value in found.items()}
    matched = align(plan.groups, similar, chosen, 2, matcher_of("permute", 2))
    return combine(models, plan, matched, None, eps=0.0)


def _stirred(model: nn.Module, rng: np.random.Generator) -> nn.Module:
    model = copy.deepcopy(model).cpu().double()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for x in tensors_of(model).values():
        if x.is_floating_point():
            noise = torch.rand(x.shape, generator=generator, dtype=x.dtype)
            x.mul_(1 + 0.2 * noise).add_(0.02 * noise.roll(1))
    return model


def _double(x: Any) -> Any:
    return x.detach().cpu().double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _flat(output: Any) -> Tensor:
    """Return all values of an output, which may be a tensor, or a list or dictionary of outputs."""
    if isinstance(output, Tensor):
        return output.flatten()
    values = output.values() if hasattr(output, "values") else output
    return torch.cat([_flat(value) for value in values if value is not None])


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
