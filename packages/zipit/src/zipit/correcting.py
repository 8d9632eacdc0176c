"""REPAIR (arXiv 2211.08403): merged features get the means and deviations that their members had.

The mean of features that are not quite alike varies less than each of them does, and the less the deeper. Where a batch
norm follows, computing its statistics anew makes up for it (`zipit.reset_norms`). Elsewhere the layer that makes the
features is corrected: its outputs are normalised while data runs through the model, so that the layers after it see
corrected ones already, and scale and shift are then multiplied into its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from zipit.combining import in_eval_mode
from zipit.matching import Groups
from zipit.statistics import inputs_of
from zipit.tracing.groups import Group

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
EPS = 1e-6
"""What is added to a variance, as in a norm."""


class Moments:
    """Sums of the outputs of a layer and of their squares, for each channel, in float64.

    Args:
        dim: The dimension of the channels.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self.sum: Any = 0
        self.squares: Any = 0

    def add(self, x: Tensor) -> None:
        """Add outputs."""
        rows = x.detach().movedim(self.dim, 0).flatten(1).double()
        self.count += rows.shape[1]
        self.sum = self.sum + rows.sum(1)
        self.squares = self.squares + (rows * rows).sum(1)

    def value(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the deviation of each channel, float64 [C]."""
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean**2).clamp_min(0).sqrt()


@torch.no_grad()
def repair(
    merged: nn.Module,
    models: Sequence[nn.Module],
    groups: Sequence[Group],
    matched: Mapping[int, Groups],
    batches: Iterable[Any],
) -> None:
    """Give merged features the means and deviations that their members have, in place.

    Args:
        merged: The merged part of the models.
        models: The models.
        groups: The groups of features.
        matched: The merged feature of each feature of all models, int64 [O], by the number of the group.
        batches: Inputs [B, ...], which are gone through twice.
    """
    layers = _layers(merged, groups, matched)
    if not layers:
        return
    data = [inputs_of(batch) for batch in batches]
    with in_eval_mode([*models, merged]):
        theirs = [_observed(model, layers, data) for model in models]
        targets = {name: _target(name, [seen[name].value() for seen in theirs], groups, matched) for name in layers}
        own = _observed(merged, layers, data, targets)
    for name in layers:
        _correct(merged.get_submodule(name), own[name].value(), targets[name])


def _layers(merged: nn.Module, groups: Sequence[Group], matched: Mapping[int, Groups]) -> dict[str, int]:
    """Return the layers with a bias that make merged features, with the dimension of their channels."""
    names = {axis.tensor for number in matched for axis in groups[number].axes if axis.tensor.endswith(".bias")}
    modules = dict(merged.named_modules())
    found = {name: modules.get(name) for name in sorted(tensor.removesuffix(".bias") for tensor in names)}
    return {
        name: -1 if isinstance(layer, nn.Linear) else 1 for name, layer in found.items() if isinstance(layer, LAYERS)
    }


def _observed(
    model: nn.Module,
    layers: Mapping[str, int],
    data: Sequence[Tensor],
    targets: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Moments]:
    """Return the moments of the outputs of layers. With targets, each batch goes on with these in place of its own."""
    seen = {name: Moments(dim) for name, dim in layers.items()}

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def watch(layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            seen[name].add(output)
            if targets is None:
                return None
            batch = Moments(layers[name])
            batch.add(output)
            scale, shift = _change(batch.value(), targets[name])
            shape = [-1 if dim == layers[name] % output.ndim else 1 for dim in range(output.ndim)]
            return output * scale.to(output.dtype).view(shape) + shift.to(output.dtype).view(shape)

        return watch

    weight = next(model.parameters())
    with ExitStack() as stack:
        for name in layers:
            stack.callback(model.get_submodule(name).register_forward_hook(hook(name)).remove)
        for x in data:
            model(x.to(weight.device, weight.dtype) if x.is_floating_point() else x.to(weight.device))
    return seen


def _target(
    name: str, stats: Sequence[tuple[Tensor, Tensor]], groups: Sequence[Group], matched: Mapping[int, Groups]
) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation that the outputs of a layer should have: those of the members of each group."""
    result = []
    for kind in (0, 1):
        values = torch.stack([stat[kind] for stat in stats])  # models, channels
        target = values.mean(0)
        for number, merged in matched.items():
            for axis in groups[number].axes:
                if axis.tensor == f"{name}.bias":
                    for places in torch.from_numpy(axis.places).to(values.device):
                        index = torch.from_numpy(merged).to(values.device)
                        sizes = torch.bincount(index, minlength=len(places))
                        sums = target.new_zeros(len(places)).index_add_(0, index, values[:, places].flatten())
                        target[places] = sums / sizes
        result.append(target)
    return result[0], result[1]


def _change(own: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift that turn a mean and a deviation into others."""
    scale = target[1] / (own[1] ** 2 + EPS).sqrt()
    return scale, target[0] - own[0] * scale


def _correct(layer: Any, own: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> None:
    scale, shift = _change(own, target)
    rows = scale.view(-1, *(1,) * (layer.weight.ndim - 1))
    layer.weight.copy_(layer.weight.double() * rows)
    layer.bias.copy_(layer.bias.double() * scale + shift)
