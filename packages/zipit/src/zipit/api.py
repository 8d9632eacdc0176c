"""What is declared as mergers: `merge`, which makes one model of several without training, and its baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from zipit.observed import Observed


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
    return Observed(models, batches, progress=progress).merge(
        method,
        until,
        a=a,
        b=b,
        reset_norm=reset_norm,
        least_squares=least_squares,
        repair=repair,
        legacy=legacy,
        seed=seed,
    )


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
