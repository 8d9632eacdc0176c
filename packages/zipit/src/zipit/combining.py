"""One model of several whose features are matched: a whole model, or a trunk and the rest of each model as heads."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zipit.graphs import Graph
from zipit.matching import EPS, Groups
from zipit.models import name_partial, name_whole
from zipit.parts import Merged, Unmerge, cut_in_two
from zipit.tracing.cutting import Cut, tensors_by_side
from zipit.tracing.groups import Group
from zipit.zipping import Maps, fitted, maps_of, mean, only, zipped


def combine(
    models: Sequence[nn.Module],
    plan: Graph,
    matched: Mapping[int, Groups],
    cut: Cut | None,
    eps: float = EPS,
    moments: Mapping[int, Tensor] | None = None,
) -> nn.Module:
    """Make one model of several whose features are matched.

    Args:
        models: The models.
        plan: The graph of the first.
        matched: The merged feature of each feature of all models, int64 [O], by the number of the group.
        cut: Where the merged part ends, or None.
        eps: See `zipit.zipping.maps_of`.
        moments: See `zipit.zipping.fitted`; None for the unmerge of the paper.
    """
    states = [tensors_of(model) for model in models]
    maps = fitted(maps_of(matched, len(models), eps), moments or {})
    if cut is None:
        merged = copy.deepcopy(models[0])
        _load(merged, mean([zipped(state, plan.groups, own) for state, own in zip(states, maps, strict=True)]))
        name_whole(merged, models)
        return merged
    before, after = tensors_by_side(plan.traced, cut.node)
    first = [only(group, before) for group in plan.groups]
    shared = [{name: x for name, x in state.items() if name in before} for state in states]
    trunk = copy.deepcopy(models[0]).eval()  # what torch.fx records of the mode stays so
    _load(trunk, mean([zipped(state, first, own) for state, own in zip(shared, maps, strict=True)]))
    rest = [only(group, after) for group in plan.groups]
    heads = [_head(model, rest, own, cut) for model, own in zip(models, maps, strict=True)]
    merged = Merged(cut_in_two(trunk, cut.modules)[0], heads)
    name_partial(merged, models, cut.modules)
    return merged


def averaged(models: Sequence[nn.Module]) -> nn.Module:
    """Return the first model with the mean of the weights of all."""
    merged = copy.deepcopy(models[0])
    _load(merged, mean([tensors_of(model) for model in models]))
    name_whole(merged, models)
    return merged


def _head(model: nn.Module, rest: Sequence[Group], maps: Maps, cut: Cut) -> nn.Module:
    """Return the part of a model after a cut, which takes the merged features.

    Where the weights after the cut do nothing but consume the features, they are changed to fit. Otherwise each feature
    is first given the merged one that it is in.
    """
    model = copy.deepcopy(model).eval()
    folded = [n for n in cut.places if all(axis.consumed for axis in rest[n].axes)]
    state = tensors_of(model)
    _load(model, zipped(state, rest, {n: maps[n] for n in folded}))
    head = cut_in_two(model, cut.modules)[1]
    left = {n: place for n, place in cut.places.items() if n not in folded}
    if not left:
        return head
    indices: dict[int, Tensor] = {}
    shape = cut.node.meta["val"].shape
    for number, (dim, places) in left.items():
        index = indices.setdefault(dim, torch.arange(shape[dim]))
        for row in torch.from_numpy(places):
            index[row] = row[maps[number].index]
    device = next(model.parameters()).device
    return nn.Sequential(OrderedDict(unmerge=Unmerge(indices).to(device), rest=head))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, detached."""
    return {name: x.detach() for name, x in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = tensors_of(model)
    for name, x in tensors.items():
        own[name].copy_(x)


@contextmanager
def in_eval_mode(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put models into eval mode, and back into the modes of their modules."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
