"""Any score by its name, for one model (`score`) or a bank of them (`score_bank`).

A method may carry options, as a transform does on the command line: ``"knn:k=5,metric=cosine"``, ``"parc:pca=32"``
(`parc.catalog`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parc.catalog import Method, check_kind, parse_method
from parc.intervals import HalfSamples
from parc.scores.inputs import Array, features_of, labels_of, probs_of
from parc.scores.linalg import compact
from parc.scores.pairwise import resampler
from parc.scores.pca import clip_components, reduce
from plm_core.errors import InputError, PlmError
from plm_core.utils.progress import track

ROTATION_INVARIANT = frozenset(
    {"knn", "split-knn", "logistic", "logme", "ridge-press", "gbc", "nleep", "hscore", "transrate"}
)
"""Scores that a rotation of the features does not change: half-samples of wide features go through N dimensions."""


@dataclass(frozen=True)
class Features:
    """What a model gives for the images of a probe."""

    features: Any
    """[N, D]: what its classifier sees."""
    probs: Any = None
    """[N, S]: its probabilities of its own classes; None for a headless model."""
    reference_features: Any = None
    """[N, D'], of a model that was trained on this data set."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of one model, or why there is none."""

    model: str
    method: str
    """As it was asked for."""
    score: float | None
    low: float | None
    """Of a 90 % interval over images; None when none was asked for or could be had."""
    high: float | None
    seconds: float
    """For the score with its reduction of the features, without the interval."""
    error: str | None = None


def score(
    method: str,
    features: Any,
    labels: Any,
    probs: Any = None,
    reference_features: Any = None,
    num_classes: int | None = None,
    pca: int | str | None = None,
    **options: Any,
) -> float:
    """How well a model's features suit the labels; higher is better, among models on the same images.

    Args:
        method: One of `methods`, which may carry options: ``"knn:k=5"``.
        features: [N, D] of N images, a numpy array, a tensor on any device or sequences.
        labels: Classes [N] (integers), multi-hot [N, C], or targets [N] or [N, T] (floats), as the score can do.
        probs: The model's probabilities of its own classes [N, S], for leep and nce.
        reference_features: [N, D'] of a model that was trained on the data, for rsa and dds.
        num_classes: Classes of the data set; None for the highest label + 1.
        pca: Reduce features and reference features first: ``32`` exact (what the paper recommends for PARC),
            ``"compat:32"`` by the published recipe.
        **options: The score's own, as ``k=5`` for knn.

    Raises:
        UnknownName: No such score.
        NotSupported: The score cannot do such labels, or needs something that did not come.
        InputError: Unfit features, labels, probabilities or options.
    """
    found = parse_method(method, pca, **options)
    x = features_of(features)
    y = _labels(labels, len(x), num_classes)
    check_kind(found.scorer, y)
    inputs = {"num_classes": num_classes, "probs": probs, "reference_features": reference_features}
    inputs = {name: inputs[name] for name in found.scorer.needs}
    if inputs.get("probs") is not None:
        inputs["probs"] = probs_of(probs, len(x))
    if inputs.get("reference_features") is not None:
        reference = features_of(reference_features, "reference_features", len(x))
        inputs["reference_features"] = _reduced(reference, found.pca, "reference_features")
    return _call(found, reduce(x, found.pca), y, inputs)


def score_bank(
    bank: Mapping[str, Features],
    labels: Any,
    methods: str | Sequence[str],
    *,
    pca: int | str | None = None,
    num_classes: int | None = None,
    bootstraps: int = 0,
    seed: int = 0,
) -> list[ScoreRow]:
    """Every method for every model, with intervals over images.

    Intervals of 90 % come from half-samples (`parc.intervals`), the same ones for all models. Reductions of the
    features, and for parc, parc-auc, rsa and dds their standardization, are those of all images. Features of fewer
    dimensions than a reduction asks for keep all of them.

    Args:
        bank: Features of each model, for the same images.
        labels: As in `score`.
        methods: As in `score`; each may carry options and a reduction of its own.
        pca: Reduction for methods that name none.
        num_classes: Classes of the data set.
        bootstraps: Number of half-samples; 0 for no intervals.
        seed: Of the half-samples.

    Returns:
        Rows by model, then by method, in the order given. What one score of one model raises is the row's ``error``.

    Raises:
        UnknownName: A method is unknown.
        InputError: Unfit labels or options of a method, or a bank of something else.
    """
    if not isinstance(bank, Mapping):
        raise InputError(f"bank is a {type(bank).__name__}; a mapping of names to parc.Features is needed")
    for name, given in bank.items():
        if not isinstance(given, Features):
            raise InputError(f"bank[{name!r}] is a {type(given).__name__}; parc.Features(...) is needed")
    texts = [methods] if isinstance(methods, str) else list(methods)
    parsed = {text: parse_method(text, pca) for text in texts}
    y = _labels(labels, None, num_classes)
    models = track(bank.items(), "scores", len(bank)) if len(bank) > 1 else bank.items()
    with HalfSamples(y, bootstraps, seed) as half_samples:
        return [
            row for name, given in models for row in _score_model(name, given, y, parsed, num_classes, half_samples)
        ]


# --- one score ------------------------------------------------------------------------------------------------------


def _labels(labels: Any, n: int | None, num_classes: int | None) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the score warns of what matters to it
        return labels_of(labels, n, num_classes, ("classes", "multilabel", "regression"))


def _reduced(reference: Array, pca: int | str | None, name: str) -> Array:
    try:
        return reduce(reference, pca)
    except InputError as e:
        raise InputError(f"{name}: {e}") from None


def _call(method: Method, features: Array, labels: Array, inputs: Mapping[str, Any]) -> float:
    try:
        value = float(method.function(features, labels, **inputs, **method.options))
    except (TypeError, ValueError) as e:
        if isinstance(e, PlmError) or not method.options:
            raise
        options = ", ".join(f"{name}={option!r}" for name, option in method.options.items())
        raise InputError(f"{method.scorer.name} cannot be computed with {options}: {e}") from e
    if not np.isfinite(value):
        raise InputError(f"{method.scorer.name} is {value} for these features and labels")
    return value


# --- a model of a bank ----------------------------------------------------------------------------------------------


def _score_model(
    name: str,
    given: Features,
    labels: Array,
    methods: Mapping[str, Method],
    num_classes: int | None,
    half_samples: HalfSamples,
) -> list[ScoreRow]:
    try:
        model = _Model(given, labels, num_classes)
    except PlmError as e:
        return [ScoreRow(name, text, None, None, None, 0.0, str(e)) for text in methods]
    return [model.row(name, text, method, half_samples) for text, method in methods.items()]


class _Model:
    """One model's inputs, with what its methods share: checks, reductions, and the rotation of wide features."""

    def __init__(self, given: Features, labels: Array, num_classes: int | None) -> None:
        n = len(labels)
        self.features = features_of(given.features, n=n)
        self.labels, self.num_classes = labels, num_classes
        self.given = given
        self._reductions: dict[tuple[str, int | str | None], tuple[Array, float]] = {}
        self._turned: dict[int | str | None, Array] = {}

    def row(self, name: str, text: str, method: Method, half_samples: HalfSamples) -> ScoreRow:
        """The score and its interval."""
        try:
            check_kind(method.scorer, self.labels)
            features, spent = self._reduction("features", method.pca)
            inputs = self._inputs(method)
            start = time.perf_counter()
            value = _call(method, features, self.labels, inputs)
            spent += time.perf_counter() - start
        except Exception as e:  # a score may fail in any way, which is no reason to lose the others
            reason = str(e) if isinstance(e, PlmError) else f"{type(e).__name__}: {e}"
            return ScoreRow(name, text, None, None, None, 0.0, reason)
        low, high = self._interval(method, value, features, inputs, half_samples)
        return ScoreRow(name, text, value, low, high, spent)

    def _reduction(self, name: str, pca: int | str | None) -> tuple[Array, float]:
        """``features`` or ``reference_features``, reduced once, and the seconds that this took."""
        if (name, pca) not in self._reductions:
            start = time.perf_counter()
            whole = self.features
            if name == "reference_features":
                whole = features_of(self.given.reference_features, name, len(self.labels))
            reduced = reduce(whole, clip_components(pca, whole.shape[1]))
            self._reductions[name, pca] = reduced, time.perf_counter() - start
        return self._reductions[name, pca]

    def _inputs(self, method: Method) -> dict[str, Any]:
        """What the method needs besides, if the model has it."""
        inputs = {"num_classes": self.num_classes, "probs": self.given.probs, "reference_features": None}
        inputs = {name: inputs[name] for name in method.scorer.needs}
        if inputs.get("probs") is not None:
            inputs["probs"] = probs_of(self.given.probs, len(self.labels))
        if "reference_features" in inputs and self.given.reference_features is not None:
            inputs["reference_features"] = self._reduction("reference_features", method.pca)[0]
        return inputs

    def _rotated(self, method: Method, features: Array) -> Array:
        """Features of at most N dimensions with the same inner products, where the score sees no difference."""
        turns = method.scorer.name in ROTATION_INVARIANT and method.options.get("metric") != "cityblock"
        if not turns or features.shape[1] <= len(features):
            return features
        if method.pca not in self._turned:
            self._turned[method.pca] = compact(features.astype(np.float64))
        return self._turned[method.pca]

    def _interval(
        self, method: Method, value: float, features: Array, inputs: Mapping[str, Any], half_samples: HalfSamples
    ) -> tuple[float | None, float | None]:
        if not half_samples.indices:
            return None, None
        shared = resampler(method.scorer.name, features, self.labels, **inputs)
        return half_samples.interval(value, shared or self._refit(method, self._rotated(method, features), inputs))

    def _refit(self, method: Method, features: Array, inputs: Mapping[str, Any]) -> Callable[[Array], float]:
        def of(half: Array) -> float:
            parts = {k: v[half] if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
            return _call(method, features[half], self.labels[half], parts)

        return of
