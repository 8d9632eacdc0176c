"""The classifiers on frozen features: logistic regression and nearest neighbours.

Both are scikit-learn's. Each standardises features [N, D] by the mean and standard deviation of those that it is fitted
on, so that nothing of the images that it is judged on gets into it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core import transforms
from plm_core.errors import InputError, UnknownName
from plm_core.utils.near_misses import miss

GRID = 10.0 ** np.arange(-2, 3)
"""Strengths C of logistic regression to choose from. A larger C regularises less."""
INNER_FOLDS = 3
"""Number of folds by which the strength is chosen."""
DEFAULT_STRENGTH = 1.0
"""Strength where a class has fewer images than there are inner folds. A choice by so few would be worse than none."""
MAX_ITER = 1000
METRICS = ("cosine", "euclidean", "cityblock")


@dataclass(frozen=True)
class Classifier:
    """A classifier and its options, not yet fitted."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, features: NDArray[Any], labels: NDArray[np.int64], seed: int) -> Any:
        """Return the classifier, fitted on features [N, D] and class numbers [N], with ``predict`` of scikit-learn."""
        return _CLASSIFIERS[self.name](features, labels, seed, **self.options)


def parse_classifier(text: str) -> Classifier:
    """Parse ``linear``, ``linear:C=0.1`` or ``knn:k=5,metric=cosine``.

    Raises:
        UnknownName: There is no such classifier.
        InputError: The text has another form, or the classifier does not take an option or its value.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    if rest:
        try:
            name, options = transforms.parse(text)
        except InputError as e:
            raise InputError(str(e).replace("transform", "method", 1)) from None
    if name not in _CLASSIFIERS:
        raise UnknownName(miss("method of probing", name, _CLASSIFIERS))
    known = [p.name for p in inspect.signature(_CLASSIFIERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option, value in options.items():
        if option not in known:
            raise InputError(f"{name} takes no option {option!r}; it takes {', '.join(known)}")
        _check(name, option, value)
    return Classifier(name, options)


def _check(name: str, option: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    allowed = {
        "C": ("a number above 0", number and 0 < value < np.inf),
        "k": ("a whole number from 1", number and isinstance(value, int) and value >= 1),
        "metric": (", ".join(METRICS), value in METRICS),
    }
    words, fits = allowed[option]
    if not fits:
        raise InputError(f"{name} has {option}={value!r}; allowed: {words}")


def _linear(features: NDArray[Any], labels: NDArray[np.int64], seed: int, *, C: float | None = None) -> Any:
    """Fit multinomial logistic regression with an L2 penalty of 1 / C.

    C is chosen from `GRID` by the accuracy in stratified folds of the images themselves. If several are equally good,
    the one that regularises most is taken.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    few = np.unique(labels, return_counts=True)[1].min() < INNER_FOLDS
    strength = DEFAULT_STRENGTH if C is None else C
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITER))
    if C is None and not few:
        inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"logisticregression__C": GRID}, cv=inner)
    return model.fit(features, labels)


def _knn(features: NDArray[Any], labels: NDArray[np.int64], seed: int, *, k: int = 5, metric: str = "cosine") -> Any:
    """Fit k nearest neighbours, which vote with the inverse of their distance, so that equal votes are rare."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    neighbours = KNeighborsClassifier(min(k, len(labels)), metric=metric, weights="distance")
    return make_pipeline(StandardScaler(), neighbours).fit(features, labels)


_CLASSIFIERS: dict[str, Callable[..., Any]] = {"linear": _linear, "knn": _knn}
