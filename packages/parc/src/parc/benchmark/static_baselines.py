"""Static baselines: rows that use no features, to compare every score with.

In the controlled table of the paper, counting the layers reaches a mean Pearson correlation of 50.9, and the accuracy
on the other targets 65.2. Most scores lie between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parc.benchmark.oracle import Oracle, load_oracle
from parc.benchmark.tables import Array, Columns, looked_up
from plm_core.errors import InputError

RCOND = 1e-6
"""Singular values below this share of the largest are dropped from the least squares. The choice matters for the fit
without oxford_pets, where the features are nearly dependent: exact least squares gives 43.86, this cutoff 43.96."""


def baselines(oracle: Oracle | str = "controlled", **facts: Mapping[str, float]) -> Columns:
    """Return the static baselines of an oracle, as a table for `parc.benchmark.aggregate`.

    A column is present if the oracle has the numbers that it needs:

    - ``layers``: depth of the architecture;
    - ``heuristic``: layers + ln(images of source + images of target), Eq. 4 of the paper and its printed numbers;
    - ``heuristic-code``: layers + ln(images of source) - ln(images of target), the form of the published code;
    - ``learned-heuristic``: least squares on classes, images, layers and their logarithms, fit on the same rows that it
      is judged on;
    - ``learned-heuristic-loo``: the same, fit on the other targets;
    - ``ln-images``: ln(images of source);
    - ``imagenet``: 1 for models trained on imagenet, else 0;
    - ``other-targets``: mean of the model's accuracy over the other targets, z-scored within each target. This column
      and the learned ones use results of fine-tuning, which no score does. This one needs every model to be fine-tuned
      elsewhere.

    Args:
        oracle: An `Oracle`, or the name of a published one. Failed transfers are left out.
        **facts: Additional columns, each a number by architecture, as ``params={"resnet18": 11.7e6, ...}``.

    Raises:
        InputError: A fact lacks an architecture, or has the name of another column.
    """
    kept = (load_oracle(oracle) if isinstance(oracle, str) else oracle).kept()
    if not len(kept):
        raise InputError("the oracle has no transfer with an accuracy above 0")
    rows = _static(kept)
    for name, values in facts.items():
        if name in rows or name in ("architecture", "source", "target", "run", "other-targets"):
            raise InputError(f"fact {name!r} has the name of a column that is there already")
        rows[name] = looked_up(name, values, kept.architecture)
    rows["other-targets"] = other_targets(kept)
    return {"architecture": kept.architecture, "source": kept.source, "target": kept.target, **rows}


def _static(oracle: Oracle) -> dict[str, Array]:
    rows: dict[str, Array] = {}
    if oracle.layers:
        rows["layers"] = looked_up("layers", oracle.layers, oracle.architecture)
    datasets = {*oracle.source.tolist(), *oracle.target.tolist()}
    if "layers" in rows and datasets <= set(oracle.images):
        of_source = looked_up("images", oracle.images, oracle.source)
        of_target = looked_up("images", oracle.images, oracle.target)
        rows["heuristic"] = heuristic(rows["layers"], of_source, of_target)
        rows["heuristic-code"] = heuristic(rows["layers"], of_source, of_target, form="code")
        if datasets <= set(oracle.classes):
            rows["learned-heuristic"] = learned_heuristic(oracle)
            if len(set(oracle.target)) > 1:
                rows["learned-heuristic-loo"] = learned_heuristic(oracle, leave_target_out=True)
        rows["ln-images"] = np.log(of_source)
    if 0 < (trained := oracle.source == "imagenet").sum() < len(oracle):
        rows["imagenet"] = trained.astype(np.float64)
    return rows


def heuristic(layers: Any, source_images: Any, target_images: Any, form: str = "paper") -> Array:
    """Combine depth and data in one number.

    Args:
        layers: Depth of the architecture.
        source_images: Number of images that the model was trained on.
        target_images: Number of images of the target.
        form: "paper" for layers + ln(source + target) (Eq. 4), or "code" for layers + ln(source) - ln(target). Within a
            target, only the ranking by the paper's form depends on the target, and only slightly.

    Raises:
        InputError: The form is another one.
    """
    if form == "paper":
        return np.asarray(layers + np.log(np.add(source_images, target_images)))
    if form == "code":
        return np.asarray(layers + np.log(source_images) - np.log(target_images))
    raise InputError(f"form is {form!r}; 'paper' and 'code' are allowed")


def learned_heuristic(oracle: Oracle, leave_target_out: bool = False) -> Array:
    """Predict the accuracy by least squares on [classes and images of source and target, layers] and their logarithms.

    The fit has an intercept and the prediction has not, as published. This only shifts all predictions of a target.

    Args:
        oracle: An oracle with layers, images and classes.
        leave_target_out: Whether each target is predicted by a fit on the other targets.

    Returns:
        One prediction per row, [N].
    """
    plain = np.stack(
        [
            looked_up("classes", oracle.classes, oracle.source),
            looked_up("classes", oracle.classes, oracle.target),
            looked_up("images", oracle.images, oracle.source),
            looked_up("images", oracle.images, oracle.target),
            looked_up("layers", oracle.layers, oracle.architecture),
        ],
        axis=1,
    )
    features = np.concatenate([plain, np.log(plain)], axis=1)
    if not leave_target_out:
        return np.asarray(features @ _least_squares(features, oracle.accuracy))
    out = np.empty(len(oracle))
    for target in set(oracle.target.tolist()):
        own = oracle.target == target
        out[own] = features[own] @ _least_squares(features[~own], oracle.accuracy[~own])
    return out


def _least_squares(features: Array, truth: Array) -> Array:
    """Return the coefficients without the intercept, which centring removes."""
    centred = features - features.mean(0)
    return np.asarray(np.linalg.lstsq(centred, truth - truth.mean(), rcond=RCOND)[0])


def other_targets(oracle: Oracle) -> Array:
    """Return the mean of the model's accuracy over the other targets, z-scored within each target, [N].

    A model without another target gets 0, the average. A target on which all models are equal counts as 0.
    """
    z = np.zeros(len(oracle))
    for target in set(oracle.target.tolist()):
        own = oracle.target == target
        of_target = oracle.accuracy[own]
        z[own] = (of_target - of_target.mean()) / (of_target.std() or 1.0)
    total: dict[tuple[str, str], tuple[float, int]] = {}
    models = [(architecture, source) for architecture, source, _ in oracle.transfers()]
    for model, value in zip(models, z, strict=True):
        before, count = total.get(model, (0.0, 0))
        total[model] = (before + value, count + 1)
    others = [(total[model][0] - own, total[model][1] - 1) for model, own in zip(models, z, strict=True)]
    return np.array([rest / count if count else 0.0 for rest, count in others])
