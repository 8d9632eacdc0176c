"""Scores of your own features, as a table for `parc.benchmark.aggregate`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from parc.benchmark.tables import KEY, Columns, columns
from parc.scoring import Features, score_bank
from plm_core.errors import InputError


def run(
    bank: Mapping[tuple[Any, ...], Features],
    labels: Mapping[Any, Any],
    methods: Sequence[str],
    *,
    pca: int | str | None = None,
    num_classes: Mapping[str, int] | None = None,
) -> Columns:
    """Score your own features, and return the scores as a table for `aggregate`.

    Args:
        bank: Features by (architecture, source, target) or (architecture, source, target, run).
        labels: Labels of the probe by target, or by (target, run).
        methods: See `parc.score_bank`; with options as in "parc:pca=32".
        pca: Number of components to which all features are reduced, see `parc.score`.
        num_classes: Nominal number of classes by target.

    Returns:
        The columns run, architecture, source, target, and one column per method. A score that could not be computed is
        NaN, and one warning gives the first reason.

    Raises:
        InputError: A key has another form, or a target has no labels.
    """
    probes: dict[tuple[str, int], dict[str, tuple[Any, ...]]] = {}
    for key in bank:
        if len(key) not in (3, 4):
            raise InputError(f"bank has key {key!r}; (architecture, source, target) or with a run is needed")
        of_probe = probes.setdefault((key[2], key[3] if len(key) == 4 else 0), {})
        of_probe[f"{key[0]}/{key[1]}"] = key
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for (target, number), of_probe in probes.items():
        probe_labels = labels.get((target, number), labels.get(target))
        if probe_labels is None:
            raise InputError(f"labels has neither {target!r} nor {(target, number)!r}")
        models = {name: bank[key] for name, key in of_probe.items()}
        classes = (num_classes or {}).get(target)
        scored: dict[str, dict[str, float]] = {name: {} for name in models}
        for row in score_bank(models, probe_labels, methods, pca=pca, num_classes=classes):
            scored[row.model][row.method] = float("nan") if row.error or row.score is None else row.score
            if row.error:
                failures.append(f"{row.method} of {row.model} on {target}: {row.error}")
        rows += [
            {"run": number, **dict(zip(KEY, of_probe[name], strict=False)), **of_model}
            for name, of_model in scored.items()
        ]
    if failures:
        warnings.warn(
            f"{len(failures)} scores could not be computed and are NaN; the first: {failures[0]}", stacklevel=2
        )
    return columns(rows)
