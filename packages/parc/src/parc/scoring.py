"""Any score by its name: for one model (`score`), or for many models at once (`score_bank`).

A method may carry options, in the form that transforms have on the command line: ``"knn:k=5,metric=cosine"``,
``"parc:pca=32"`` (see `parc.catalog`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from parc.catalog import Method, check_kind, parse_method
from parc.checks import whole_number
from parc.intervals import HalfSamples
from parc.scores.inputs import Array, features_of, kind_of, labels_of, probs_of
from parc.scores.linalg import compact
from parc.scores.pairwise import resampler
from parc.scores.pca import clip_components, reduce, reduced_on_device
from parc.scores.reference import Reference
from parc.scores.tensors import coordinates, on_accelerator
from plm_core.errors import InputError, PlmError
from plm_core.utils.progress import track

ROTATION_INVARIANT = frozenset(
    {"knn", "split-knn", "logistic", "logme", "ridge-press", "gbc", "nleep", "hscore", "transrate"}
)
"""Scores that a rotation of the features does not change. For their half-samples, wide features are rotated into at
most N dimensions."""
MAX_CLASSES = 2**63 - 1
ACCURACIES = frozenset({"parc-auc", "lda-loo", "knn", "split-knn", "logistic"})
"""Scores that are percentages for all labels. ``ridge-press`` is one for classes."""


@dataclass(frozen=True)
class Features:
    """The output of a model for the images of a probe."""

    features: Any
    """[N, D], the input of the classifier."""
    probs: Any = None
    """[N, S], the probabilities of the model's own classes; None for a headless model."""
    reference_features: Any = None
    """[N, D'], features of a model that was trained on this dataset."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of one model, or the reason why there is none."""

    model: str
    method: str
    """The method, spelled as in the call."""
    score: float | None
    low: float | None
    """Lower end of the 90 % interval over images. None if no interval was requested, or none could be computed."""
    high: float | None
    """Upper end of the interval."""
    seconds: float
    """Time for the score and its reduction of the features, without the interval."""
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
    """Score how well a model's features suit the labels; higher is better, among models on the same images.

    The features are taken as they are, for knn and logistic too, but parc, parc-auc, rsa, dds and hscore standardize
    them: each dimension then has mean 0 and standard deviation 1.

    Example:
        >>> import numpy as np, parc
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> features = rng.normal(size=(60, 8)) + rng.normal(size=(3, 8))[labels]
        >>> round(parc.score("parc", features, labels), 1)
        62.8
        >>> round(parc.score("knn", features, labels, k=5), 1)
        93.3

    Args:
        method: A name from `methods`, with options where needed: ``"knn:k=5"``.
        features: [N, D] for N images: a NumPy array, a tensor on any device, or nested sequences. Features on a CUDA or
            XPU device stay there for an exact reduction by ``pca`` and for scores that a rotation does not change
            (`ROTATION_INVARIANT`). Only their coordinates are copied. For all other scores they are copied whole.
        labels: Classes [N] (integers), multi-hot labels [N, C], or targets [N] or [N, T] (floats). Which kinds are
            possible depends on the score. A single column [N, 1] is the same as [N].
        probs: The model's probabilities of its own classes [N, S], for leep and nce.
        reference_features: [N, D'] of a model that was trained on the dataset, for rsa and dds.
        num_classes: Number of classes in the dataset; None for the number of classes that occur.
        pca: Number of dimensions to which features and reference features are reduced first: ``32`` for exact principal
            components (the paper's recommendation for PARC), ``"compat:32"`` for the published recipe.
        **options: Options of the score itself, such as ``k=5`` for knn.

    Raises:
        UnknownName: There is no such score.
        NotSupported: The score cannot use labels of this kind, or an input that it needs is missing.
        InputError: The features, labels, probabilities or options are not allowed.
    """
    parsed = parse_method(method, pca, **options)
    reduced = reduced_on_device(features, parsed.pca)
    if reduced is None and parsed.pca is None and _sees_no_rotation(parsed) and on_accelerator(features):
        reduced = coordinates(features)
    x = features_of(features) if reduced is None else reduced
    y = _labels(labels, len(x), num_classes)
    check_kind(parsed.scorer, y)
    inputs = {"num_classes": num_classes, "probs": probs, "reference_features": reference_features}
    inputs = {name: inputs[name] for name in parsed.scorer.needs}
    if inputs.get("probs") is not None:
        inputs["probs"] = probs_of(probs, len(x))
    if inputs.get("reference_features") is not None:
        inputs["reference_features"] = Reference(reference_features, len(x)).reduced(parsed.pca)
    return _call(parsed, reduce(x, parsed.pca) if reduced is None else x, y, inputs)


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
    """Score every model of a bank by every method, with intervals over images.

    The 90 % intervals come from half-samples (`parc.intervals`), which are the same for all models. The features are
    reduced once, on all images; for parc, parc-auc, rsa and dds they are also standardized once. Features with fewer
    dimensions than a reduction asks for keep all of them.

    Example:
        >>> import numpy as np, parc
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> noise = rng.normal(size=(60, 8))
        >>> bank = {"noise": parc.Features(noise), "model": parc.Features(noise + rng.normal(size=(3, 8))[labels])}
        >>> for row in parc.score_bank(bank, labels, ["parc", "knn"]):
        ...     print(row.model, row.method, round(row.score, 1))
        noise parc 1.4
        noise knn 43.3
        model parc 62.8
        model knn 93.3

    Args:
        bank: Features of each model, by its name, for the same images.
        labels: See `score`.
        methods: One or more methods, see `score`. Each may have options and a reduction of its own.
        pca: Reduction for the methods that have none.
        num_classes: Number of classes in the dataset; None for the number of classes that occur.
        bootstraps: Number of half-samples; 0 for no intervals.
        seed: Seed of the half-samples.

    Returns:
        Rows by model, then by method, in the order of the arguments. An error of one score of one model becomes the
        ``error`` of its row.

    Raises:
        UnknownName: A method is unknown.
        InputError: The labels or the options of a method are not allowed, or the bank is no mapping to `Features`.
    """
    if not isinstance(bank, Mapping):
        raise InputError(f"bank is a {type(bank).__name__}; a mapping of names to parc.Features is needed")
    for name, features in bank.items():
        if not isinstance(features, Features):
            raise InputError(f"bank[{name!r}] is a {type(features).__name__}; parc.Features(...) is needed")
    if not isinstance(methods, str | Sequence):
        raise InputError(f"methods is a {type(methods).__name__}; one method or a sequence of methods is needed")
    texts = [methods] if isinstance(methods, str) else list(methods)
    parsed = {text: parse_method(text, pca) for text in texts}
    y = _labels(labels, None, num_classes)
    models = track(bank.items(), "scores", len(bank)) if len(bank) > 1 else bank.items()
    references: dict[int, tuple[Any, Reference]] = {}
    with HalfSamples(y, bootstraps, seed) as half_samples:
        rows = (
            _score_model(name, features, y, parsed, num_classes, half_samples, references) for name, features in models
        )
        return [row for of_model in rows for row in of_model]


def _labels(labels: Any, n: int | None, num_classes: int | None) -> Array:
    if num_classes is not None:
        whole_number(num_classes, "num_classes", 1, MAX_CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the score itself gives the warnings that concern it
        return labels_of(labels, n, num_classes, ("classes", "multilabel", "regression"))


def _sees_no_rotation(method: Method) -> bool:
    return method.scorer.name in ROTATION_INVARIANT and method.options.get("metric") != "cityblock"


def _call(method: Method, features: Array, labels: Array, inputs: Mapping[str, Any]) -> float:
    try:
        value = float(method.function(features, labels, **inputs, **method.options))
    except (TypeError, ValueError, OverflowError) as e:
        if isinstance(e, PlmError) or not method.options:
            raise
        options = ", ".join(f"{name}={option!r}" for name, option in method.options.items())
        raise InputError(f"{method.scorer.name} cannot be computed with {options}: {e}") from e
    if not np.isfinite(value):
        raise InputError(f"{method.scorer.name} is {value} for these features and labels")
    return value


def _score_model(
    name: str,
    features: Features,
    labels: Array,
    methods: Mapping[str, Method],
    num_classes: int | None,
    half_samples: HalfSamples,
    references: dict[int, tuple[Any, Reference]],
) -> list[ScoreRow]:
    try:
        model = _BankModel(features, labels, num_classes, references)
        if not on_accelerator(features.features):
            _ = model.features  # checked once, for all methods
    except PlmError as e:
        return [ScoreRow(name, text, None, None, None, 0.0, str(e)) for text in methods]
    return [model.row(name, text, method, half_samples) for text, method in methods.items()]


class _BankModel:
    """One model of a bank, with the work that its methods share: checks, reductions, rotations of wide features."""

    def __init__(
        self, unchecked: Features, labels: Array, num_classes: int | None, references: dict[int, tuple[Any, Reference]]
    ) -> None:
        self.labels, self.num_classes = labels, num_classes
        self.unchecked = unchecked  # probs and reference features are checked only for a method that needs them
        # By the identity of the reference features, which models share. They are kept too, since Python gives the
        # identity of an object that is gone to another one.
        self._references = references
        self._reductions: dict[tuple[int | str | None, bool], tuple[Array, float]] = {}
        self._rotations: dict[int | str | None, Array] = {}

    @cached_property
    def features(self) -> Array:
        """The features, checked. Those on an accelerator are copied only for a method that needs all of them."""
        return features_of(self.unchecked.features, n=len(self.labels))

    def row(self, name: str, text: str, method: Method, half_samples: HalfSamples) -> ScoreRow:
        """Return the score by a method and its interval."""
        try:
            check_kind(method.scorer, self.labels)
            features, seconds = self._reduced(method)
            inputs = self._inputs(method)
            start = time.perf_counter()
            value = _call(method, features, self.labels, inputs)
            seconds += time.perf_counter() - start
        except Exception as e:  # a score may fail in any way, and the others must not suffer from it
            reason = str(e) if isinstance(e, PlmError) else f"{type(e).__name__}: {e}"
            return ScoreRow(name, text, None, None, None, 0.0, reason)
        low, high = self._interval(method, value, features, inputs, half_samples)
        return ScoreRow(name, text, value, low, high, seconds)

    def _reduced(self, method: Method) -> tuple[Array, float]:
        """Return the features, reduced once, and the seconds that this took.

        Features on an accelerator are rotated there for a method without a reduction to which a rotation is no change.
        """
        pca, on_device = method.pca, self.unchecked.features
        rotates = pca is None and _sees_no_rotation(method) and on_accelerator(on_device)
        if (pca, rotates) not in self._reductions:
            start = time.perf_counter()
            reduced = coordinates(on_device) if rotates else reduced_on_device(on_device, pca, clip=True)
            if reduced is None or len(reduced) != len(self.labels):
                reduced = reduce(self.features, clip_components(pca, self.features.shape[1]))
            self._reductions[pca, rotates] = reduced, time.perf_counter() - start
        return self._reductions[pca, rotates]

    def _reference(self) -> Reference:
        """Return the reference features, checked once for all models that share them."""
        features = self.unchecked.reference_features
        if id(features) not in self._references:
            self._references[id(features)] = features, Reference(features, len(self.labels))
        return self._references[id(features)][1]

    def _inputs(self, method: Method) -> dict[str, Any]:
        """Return the inputs that the method needs besides features and labels, None for those that the model lacks."""
        inputs = {"num_classes": self.num_classes, "probs": self.unchecked.probs, "reference_features": None}
        inputs = {name: inputs[name] for name in method.scorer.needs}
        if inputs.get("probs") is not None:
            inputs["probs"] = probs_of(self.unchecked.probs, len(self.labels))
        if "reference_features" in inputs and self.unchecked.reference_features is not None:
            inputs["reference_features"] = self._reference().reduced(method.pca, clip=True)
        return inputs

    def _rotated(self, method: Method, features: Array) -> Array:
        """Return features with at most N dimensions and the same inner products, if the score is the same for them."""
        if not _sees_no_rotation(method) or features.shape[1] <= len(features):
            return features
        if method.pca not in self._rotations:
            self._rotations[method.pca] = compact(features.astype(np.float64))
        return self._rotations[method.pca]

    def _interval(
        self, method: Method, value: float, features: Array, inputs: Mapping[str, Any], half_samples: HalfSamples
    ) -> tuple[float | None, float | None]:
        if not half_samples.indices:
            return None, None
        score_of = resampler(method.scorer.name, features, self.labels, **inputs)
        score_of = score_of or self._rescored(method, self._rotated(method, features), inputs)
        name, classes = method.scorer.name, kind_of(self.labels) == "classes"
        percentage = name in ACCURACIES or (name == "ridge-press" and classes)
        return half_samples.interval(value, score_of, (0, 100) if percentage else (-np.inf, np.inf))

    def _rescored(self, method: Method, features: Array, inputs: Mapping[str, Any]) -> Callable[[Array], float]:
        """Return a function from the indices of a half-sample to its score, computed from the start."""

        def score_of(half: Array) -> float:
            parts = {k: v[half] if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
            return _call(method, features[half], self.labels[half], parts)

        return score_of
