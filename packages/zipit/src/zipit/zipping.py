"""The zip rule: weights of several models become weights of one (arXiv 2305.03053, section 4).

A group of features has a merge M_i [R, n] and an unmerge U_i [n, R] for each model i. Along a dimension that a tensor
makes features on, such as the rows of a weight, a bias or the scale of a norm, it is multiplied by M_i. Along a
dimension that consumes features, such as the columns of a weight, it is multiplied by U_i. The mean over the models is
the merged tensor.

A row of U_i has a single one, since each feature is in one group. So both products are sums over the features of each
group. M_i divides them by the size of the group, counted in all models, and multiplies them by the number of models.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zipit.matching import EPS, Groups
from zipit.tracing.groups import Axis, Group, GroupedWeight


@dataclass(frozen=True)
class Zip:
    """How the features of one model become merged ones.

    Attributes:
        index: The merged feature of each feature, int64 [n].
        scale: What the sum over the features of a merged one is multiplied by, float64 [n].
        unmerge: How weights see the features in the merged ones, float64 [n, R], if not each in the one that it is in.
    """

    index: Tensor
    scale: Tensor
    unmerge: Tensor | None = None


RIDGE = 1e-4
"""What is added to the moments of the merged features, as a share of their mean, so that dead ones do no harm."""

Maps = Mapping[int, Zip]
"""How each group of features becomes merged ones, by its number."""


def maps_of(matched: Mapping[int, Groups], models: int, eps: float = EPS) -> list[dict[int, Zip]]:
    """Return for each model how its features become merged ones.

    Args:
        matched: The merged feature of each feature of all models, int64 [O], by the number of the group.
        models: Number of models.
        eps: What is added to the size of a group before it divides.
    """
    maps: list[dict[int, Zip]] = [{} for _ in range(models)]
    for number, groups in matched.items():
        index = torch.from_numpy(np.ascontiguousarray(groups))
        sizes = torch.bincount(index, minlength=len(groups) // models)
        scale = models / (sizes.double() + eps)
        for model, part in enumerate(index.chunk(models)):
            maps[model][number] = Zip(part, scale)
    return maps


def fitted(maps: Sequence[Mapping[int, Zip]], moments: Mapping[int, Tensor]) -> list[dict[int, Zip]]:
    """Return maps in which weights see features as well as a linear map of the merged ones can tell them.

    The unmerge of the paper gives each feature the merged one that it is in. The least squares solution predicts the
    features x from the merged ones, z = M x: U = E[x z^T] E[z z^T]^-1. It needs nothing but the moments E[x x^T] that
    the matching has already seen. Least squares for each layer after a merge (PLeaS) amounts to it if neighbouring
    places of an image are taken as independent.

    Args:
        maps: How the features of each model become merged ones.
        moments: E[x x^T], float64 [O, O], by the number of the group, of those that are fitted.
    """
    result = [dict(own) for own in maps]
    for number, moment in moments.items():
        parts = [own[number] for own in maps]
        size = len(parts[0].index)
        merge = torch.zeros(size, len(moment), dtype=torch.float64)
        columns = torch.arange(len(moment))
        merge[torch.cat([part.index for part in parts]), columns] = 1.0
        merge *= parts[0].scale[:, None] / len(maps)
        both = merge @ moment
        inner = both @ merge.T
        inner += RIDGE * inner.diagonal().mean() * torch.eye(size, dtype=torch.float64)
        unmerge = torch.linalg.solve(inner, both).T
        for own, part, rows in zip(result, parts, unmerge.chunk(len(maps)), strict=True):
            own[number] = replace(part, unmerge=rows)
    return result


def zipped(tensors: Mapping[str, Tensor], groups: Sequence[Group], maps: Maps) -> dict[str, Tensor]:
    """Return the tensors of one model in the merged features.

    Args:
        tensors: Parameters and buffers by name. Those that no group lies on are returned as they are.
        groups: The groups.
        maps: How the features of the groups that are merged become others.
    """
    result = dict(tensors)
    wide = [weight for number in maps for weight in groups[number].grouped]
    for weight in wide:
        result[weight.tensor] = _spread(result[weight.tensor], weight)
    for number, own in maps.items():
        inner = [Axis(weight.tensor, 1, _all(groups[number]), True) for weight in groups[number].grouped]
        for axis in (*groups[number].axes, *inner):
            result[axis.tensor] = along(result[axis.tensor], axis, own)
    for weight in wide:
        result[weight.tensor] = _gathered(result[weight.tensor], weight)
    return result


def along(x: Tensor, axis: Axis, own: Zip) -> Tensor:
    """Sum a tensor over the features of each merged one, or average it if the tensor makes features on this axis."""
    result = x.clone()
    index = own.index.to(x.device)
    for places in torch.from_numpy(axis.places).to(x.device):
        part = x.index_select(axis.dim, places).to(torch.promote_types(x.dtype, torch.float32))
        if axis.consumed and own.unmerge is not None:
            new = torch.tensordot(part, own.unmerge.to(part.device, part.dtype), ([axis.dim], [0])).movedim(
                -1, axis.dim
            )
        else:
            new = torch.zeros_like(part).index_add_(axis.dim, index, part)
        if not axis.consumed:
            scale = own.scale.to(new.device, new.dtype)
            new *= scale.view([-1 if dim == axis.dim else 1 for dim in range(x.ndim)])
        result.index_copy_(axis.dim, places, new.to(x.dtype))
    return result


def _all(group: Group) -> Groups:
    return np.arange(group.size)[None]


def mean(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of tensors over models, in float64 for floats; of integers, those of the first model."""
    return {
        name: torch.stack([model[name].to(x.device, torch.float64) for model in models]).mean(0).to(x.dtype)
        if x.is_floating_point()
        else x.clone()
        for name, x in models[0].items()
    }


def only(group: Group, names: Container[str]) -> Group:
    """Return a group with those of its places that are in some tensors."""
    axes = [axis for axis in group.axes if axis.tensor in names]
    return replace(group, axes=axes, grouped=[weight for weight in group.grouped if weight.tensor in names])


# --- grouped convolutions -------------------------------------------------------------------------------------------


def _spread(x: Tensor, weight: GroupedWeight) -> Tensor:
    """Return the weight [out, in / groups, *] of a grouped convolution as that of a whole one, [out, in, *]."""
    parts = []
    for part, features in zip(x.chunk(weight.groups), weight.features, strict=True):
        wide = x.new_zeros(len(part), weight.features.size, *x.shape[2:])
        parts.append(wide.index_copy_(1, torch.from_numpy(features).to(x.device), part))
    return torch.cat(parts)


def _gathered(wide: Tensor, weight: GroupedWeight) -> Tensor:
    """Return what `_spread` made wide, as before."""
    parts = zip(wide.chunk(weight.groups), weight.features, strict=True)
    return torch.cat([part.index_select(1, torch.from_numpy(features).to(wide.device)) for part, features in parts])
