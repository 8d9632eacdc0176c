"""`Observed`: models that are traced and seen on data once, and merged in as many ways as wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import InputError
from plm_core.utils.progress import track
from plm_core.utils.ranges import check_choice
from zipit.aligning import align
from zipit.combining import averaged, combine, in_eval_mode, tensors_of
from zipit.correcting import repair as repair_layers
from zipit.graphs import Graph, graph
from zipit.matching import METHODS, Groups, Matcher, correlation, matcher_of
from zipit.norms import reset_norms
from zipit.parts import Merged
from zipit.rebasin import align_by_weights
from zipit.statistics import Covariance, inputs_of, observe
from zipit.tracing.cutting import Cut, tensors_by_side
from zipit.tracing.sites import Site

Place = tuple[int, str, bool]
"""Where features are seen: the number of their group, a module, and whether they are in its output."""


class Observed:
    """Models of one architecture and the data that they are seen on, to be merged in several ways.

    The models are traced once, and run on the data once for each place where features are seen. Each `merge` then costs
    the matching, the change of the weights, and what resets the norms.

    Args:
        models: Two models or more, on one device, with the same modules. They are run in eval mode, and must not be
            changed while this object is used.
        batches: Inputs without labels: tensors [B, ...], or tuples that begin with one. A generator is kept in a list.
        progress: Whether to show progress bars on a terminal.

    Attributes:
        models: The models.
        data: The batches.

    Raises:
        InputError: These are not several modules on one device in one dtype, with finite parameters, or ``batches`` is
            not several batches.
    """

    def __init__(self, models: Sequence[nn.Module], batches: Iterable[Any], *, progress: bool = True) -> None:
        check_models(models)
        _check_batches(batches)
        self.models = list(models)
        self.data = list(batches) if isinstance(batches, Iterator) else batches
        self._progress = progress
        self._totals: dict[Place, Covariance] = {}

    @cached_property
    def plan(self) -> Graph:
        """Return the graph of the models.

        Raises:
            InputError: There is no data.
            NotSupported: The first model cannot be traced.
        """
        return graph(self.models[0], example_of(self.models[0], self.data))

    def observe(self, cuts: Iterable[str | Sequence[str] | None] = (None,)) -> None:
        """See all features that merges up to these places need, in a single pass over the data.

        `merge` does so itself where something is missing. A covariance of all models takes 8 bytes for each pair of
        features, and there is one for each place where a group is seen.

        Args:
            cuts: Values of ``until`` of `merge`.

        Raises:
            InputError: The models differ, or cannot be cut at one of these places, or there is too little data.
            PlmError: Features are not finite.
        """
        missing: dict[Place, Site] = {}
        for cut in [self.plan.cut_at(until) for until in cuts]:
            _check_alike(self.models, self.plan, cut)
            missing.update({_place(n, site): site for n, site in self._sites(cut).items()})
        missing = {place: site for place, site in missing.items() if place not in self._totals}
        if missing:
            with in_eval_mode(self.models):
                self._totals.update(observe(self.models, self._shown("statistics"), missing))

    def merge(
        self,
        method: str = "zipit",
        until: str | Sequence[str] | None = None,
        *,
        a: float = 0.3,
        b: float = 0.125,
        reset_norm: bool = True,
        least_squares: bool = False,
        repair: bool = False,
        legacy: bool = False,
        seed: int = 0,
    ) -> nn.Module:
        """Return one model of all, see `zipit.merge`."""
        check_choice("method", method, ("weights", *METHODS))
        how = "permute" if method == "weights" else method
        match = matcher_of(how, len(self.models), a=a, b=b, legacy=legacy, seed=seed)
        if method == "identity" and until is None and not (least_squares or repair):
            _check_same(self.models, tensors_of(self.models[0]), "")  # no graph is needed
            merged = averaged(self.models)
        else:
            cut = self.plan.cut_at(until)
            _check_alike(self.models, self.plan, cut)
            matched, moments = self._matched(method, cut, match, least_squares)
            merged = combine(self.models, self.plan, matched, cut, moments=moments)
            if repair:
                trunk = merged.trunk if isinstance(merged, Merged) else merged
                repair_layers(trunk, self.models, self.plan.groups, matched, self.data)
        if reset_norm:
            reset_norms(merged, map(inputs_of, self._shown("norms")))
        return merged.eval()

    def _matched(
        self, method: str, cut: Cut | None, match: Matcher, least_squares: bool
    ) -> tuple[Mapping[int, Groups], Mapping[int, Tensor]]:
        """Return the merged feature of each feature, and the moments for least squares, by the number of the group."""
        chosen = self.plan.chosen(cut)
        if method == "weights":
            return align_by_weights(self.plan.groups, [tensors_of(model) for model in self.models], chosen), {}
        self.observe([None if cut is None else cut.modules])
        totals = {number: self._totals[_place(number, site)] for number, site in self._sites(cut).items()}
        similar = {number: correlation(total.value().cpu().numpy()) for number, total in totals.items()}
        matched = align(self.plan.groups, similar, chosen, len(self.models), match)
        if not least_squares:
            return matched, {}
        return matched, {n: total.moment().cpu() for n, total in totals.items() if _is_plain(self.plan, n)}

    def _sites(self, cut: Cut | None) -> dict[int, Site]:
        chosen = self.plan.chosen(cut)
        return {number: site for number, site in enumerate(self.plan.sites(cut)) if site and number in chosen}

    def _shown(self, label: str) -> Iterable[Any]:
        return track(self.data, label) if self._progress else self.data


def _place(number: int, site: Site) -> Place:
    return number, site.module, site.output


def _is_plain(plan: Graph, number: int) -> bool:
    """Return whether weights may see any mixture of the features of a group: if they are in no blocks."""
    return plan.groups[number].owner < 0 and not plan.groups[number].grouped


# --- arguments ------------------------------------------------------------------------------------------------------


def check_models(models: Sequence[nn.Module]) -> None:
    """Raise an error if these are not several modules on one device."""
    if isinstance(models, nn.Module) or len(models) < 2 or not all(isinstance(model, nn.Module) for model in models):
        raise InputError("models has to be a list of two modules or more")
    homes = [{(x.device, x.dtype) for x in model.parameters() if x.is_floating_point()} for model in models]
    if any(home != homes[0] for home in homes):
        names = [", ".join(sorted(f"{device} {dtype}" for device, dtype in home)) for home in homes]
        raise InputError(f"models are on different devices or in different dtypes: {'; '.join(dict.fromkeys(names))}")
    _check_values(models)


def _check_values(models: Sequence[nn.Module]) -> None:
    """Raise an error if a model has no parameters, or some without values, as on the device meta, or not finite."""
    for number, model in enumerate(models):
        parameters = dict(model.named_parameters())
        if not parameters:
            raise InputError(f"models[{number}] has no parameters; there is nothing to merge")
        for name, x in parameters.items():
            if x.is_meta:
                raise InputError(f"{name!r} of models[{number}] is on the device meta, which holds no values")
            if not x.isfinite().all():
                raise InputError(f"{name!r} of models[{number}] has values that are not finite")


def _check_batches(batches: Any) -> None:
    if isinstance(batches, Tensor) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        what = f"a tensor {list(batches.shape)}" if isinstance(batches, Tensor) else f"{batches!r}"
        raise InputError(f"batches is {what}; several batches are expected, such as a list of tensors [batch, ...]")


def _check_alike(models: Sequence[nn.Module], plan: Graph, cut: Cut | None) -> None:
    """Raise an error that names the first difference of the parts that are merged."""
    names, _ = tensors_by_side(plan.traced, cut.node if cut else None)
    first = {name: x for name, x in tensors_of(models[0]).items() if cut is None or name in names}
    last = plan.cuts[-1].name if plan.cuts and cut is None else ""
    _check_same(models, first, last)


def _check_same(models: Sequence[nn.Module], first: Mapping[str, Tensor], last: str) -> None:
    """Raise an error that names the first tensor of the first model that another has not, or in another shape.

    ``last`` is a module before which the models could be cut, so that each keeps its own end.
    """
    for number, model in enumerate(models[1:], 1):
        other = tensors_of(model)
        for name, x in first.items():
            if name not in other or other[name].shape != x.shape:
                theirs = f"{list(other[name].shape)}" if name in other else "missing"
                hint = f"; with until={last!r} each model keeps its own end" if last else ""
                raise InputError(f"{name!r} is {list(x.shape)} in models[0] and {theirs} in models[{number}]{hint}")
        odd = next((name for name in other if name not in first), None)
        if odd is not None and not last and len(first) == len(tensors_of(models[0])):
            raise InputError(f"{odd!r} is in models[{number}] and not in models[0]; one architecture is needed")


def example_of(model: nn.Module, data: Iterable[Any]) -> Tensor:
    """Return two inputs or more, to trace the model with."""
    first = next(iter(data), None)
    if first is None:
        raise InputError("batches has no data; at least one input is needed")
    x = inputs_of(first)[:2]
    x = torch.cat([x, x]) if len(x) == 1 else x
    weight = next(model.parameters())
    return x.to(weight.device, weight.dtype) if x.is_floating_point() else x.to(weight.device)
