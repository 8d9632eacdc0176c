"""What is declared as mergers: `merge`, which makes one model of several without training, and its baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from zipit.matching import METHODS, correlation, matcher_of
from zipit.norms import reset_norms
from zipit.parts import Merged
from zipit.rebasin import align_by_weights
from zipit.statistics import Covariance, inputs_of, observe
from zipit.tracing.cutting import Cut, tensors_by_side


def merge(
    models: Sequence[nn.Module],
    batches: Iterable[Any],
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
    progress: bool = True,
) -> nn.Module:
    """Merge models of one architecture that were trained from different initialisations, without training.

    Each group of features that must change places together is seen in all models on the same data, and matched. The
    features of a matched group become their mean, and the weights before and after are changed to fit. The models
    themselves are left as they are.

    Args:
        models: Two models or more, on one device, with the same modules. They are run in eval mode.
        batches: Inputs without labels: tensors [B, ...], or tuples that begin with one. A few hundred images are
            enough. They are gone through twice if there are batch norms to reset, so a generator is kept in a list.
        method: ``zipit``, ``permute``, ``identity`` (the average of the weights), ``optimal`` or ``kmeans``, see
            `zipit.match`; or ``weights``, which permutes by the weights alone (Git Re-Basin, arXiv 2209.04836).
        until: The module that is the first not to be merged, one of `zipit.cuts`, or several with the same input. Then
            the result has one trunk, and the rest of each model as a head. None to merge everything.
        a: See `zipit.match`.
        b: See `zipit.match`.
        reset_norm: Whether the statistics of batch norms are computed anew on the batches.
        least_squares: Whether the weights that use merged features are fitted to them by least squares, from the same
            statistics, in place of the unmerge of the paper.
        repair: Whether layers without a batch norm are corrected, so that merged features have the means and deviations
            that their members had (REPAIR, arXiv 2211.08403).
        legacy: See `zipit.match`.
        seed: See `zipit.match`.
        progress: Whether to show progress bars on a terminal.

    Returns:
        A module in eval mode: of the models' own class, or, with ``until``, a `Merged`, whose outputs are a list, one
        for each model.

    Raises:
        InputError: The models differ, ``until`` is no place where they can be cut, or there is no data.
        NotSupported: The model cannot be traced.
    """
    check_models(models)
    check_choice("method", method, ("weights", *METHODS))
    match = matcher_of("permute" if method == "weights" else method, len(models), a=a, b=b, legacy=legacy, seed=seed)
    if method == "identity" and until is None and not (least_squares or repair):
        return _averaged(models, batches, reset_norm, progress)
    data = batches if isinstance(batches, Sequence) or not isinstance(batches, Iterator) else list(batches)
    plan = graph(models[0], example_of(models[0], data))
    cut = plan.cut_at(until)
    _check_alike(models, plan, cut)
    chosen = plan.chosen(cut)
    moments: dict[int, Tensor] = {}
    if method == "weights":
        matched = align_by_weights(plan.groups, [tensors_of(model) for model in models], chosen)
    else:
        totals = _observed(models, data, plan, cut, progress)
        similar = {number: correlation(total.value().cpu().numpy()) for number, total in totals.items()}
        matched = align(plan.groups, similar, chosen, len(models), match)
        if least_squares:
            moments = {number: total.moment().cpu() for number, total in totals.items() if _is_plain(plan, number)}
    merged = combine(models, plan, matched, cut, moments=moments)
    if repair:
        repair_layers(merged.trunk if isinstance(merged, Merged) else merged, models, plan.groups, matched, data)
    if reset_norm:
        reset_norms(merged, map(inputs_of, track(data, "norms") if progress else data))
    return merged.eval()


def _is_plain(plan: Graph, number: int) -> bool:
    """Return whether weights may see any mixture of the features of a group: if they are in no blocks."""
    return plan.groups[number].owner < 0 and not plan.groups[number].grouped


def _observed(
    models: Sequence[nn.Module], data: Iterable[Any], plan: Graph, cut: Cut | None, progress: bool
) -> dict[int, Covariance]:
    """Return the covariances of the features of all models by the number of the group."""
    chosen = plan.chosen(cut)
    sites = {number: site for number, site in enumerate(plan.sites(cut)) if site and number in chosen}
    with in_eval_mode(models):
        shown = track(data, "statistics") if progress else data
        return observe(models, shown, sites) if sites else {}


def average(models: Sequence[nn.Module], batches: Iterable[Any] = (), **options: Any) -> nn.Module:
    """Average the weights of models. Without data, the statistics of batch norms are averaged too.

    Args:
        models: See `merge`.
        batches: See `merge`.
        **options: Other keywords of `merge`.
    """
    return merge(models, batches, "identity", **options)


def permute(models: Sequence[nn.Module], batches: Iterable[Any], **options: Any) -> nn.Module:
    """Permute the features of each model to fit those of the first, and average the weights.

    Args:
        models: See `merge`.
        batches: See `merge`.
        **options: Other keywords of `merge`.
    """
    return merge(models, batches, "permute", **options)


def _averaged(models: Sequence[nn.Module], batches: Iterable[Any], reset_norm: bool, progress: bool) -> nn.Module:
    """Average all weights, for which no graph is needed."""
    _check_same(models, tensors_of(models[0]), "")
    merged = averaged(models)
    if reset_norm:
        reset_norms(merged, map(inputs_of, track(batches, "norms") if progress else batches))
    return merged.eval()


# --- arguments ------------------------------------------------------------------------------------------------------


def check_models(models: Sequence[nn.Module]) -> None:
    """Raise an error if these are not several modules on one device."""
    if isinstance(models, nn.Module) or len(models) < 2 or not all(isinstance(model, nn.Module) for model in models):
        raise InputError("models has to be a list of two modules or more")
    homes = [{(x.device, x.dtype) for x in model.parameters() if x.is_floating_point()} for model in models]
    if any(home != homes[0] for home in homes):
        names = [", ".join(sorted(f"{device} {dtype}" for device, dtype in home)) for home in homes]
        raise InputError(f"models are on different devices or in different dtypes: {'; '.join(dict.fromkeys(names))}")


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
