"""Accuracies of a classifier on features: in folds, with few images per class, and on a split of its own.

Shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from parc.probing.accuracy import Accuracy, accuracy
from parc.probing.classifiers import Classifier
from parc.probing.settings import AUTO
from plm_core.errors import InputError

DRAWS = 3
"""Number of times that the images of a few-shot training are drawn in each fold."""

Indices = NDArray[np.int64]


class Folds:
    """Stratified folds of labelled images or videos, the same for all models.

    Args:
        labels: Class numbers [N].
        classes: Names of the classes, for messages.
        count: Number of folds.
        seed: Seed of the shuffle, and of the few-shot draws.
        kind: The word for the items in messages: ``images`` or ``videos``.

    Raises:
        InputError: A class has fewer items than there are folds.
    """

    def __init__(self, labels: Indices, classes: Sequence[str], count: int, seed: int, kind: str = "images") -> None:
        from sklearn.model_selection import StratifiedKFold

        sizes = np.bincount(labels, minlength=len(classes))
        present = np.flatnonzero(sizes)
        smallest = present[sizes[present].argmin()]
        if sizes[smallest] < count:
            hint = f"{sizes[smallest]} folds or fewer are allowed" if sizes[smallest] > 1 else f"2 {kind} are needed"
            raise InputError(
                f"folds is {count}, but class {classes[smallest]!r} has {sizes[smallest]} of the {kind}; {hint}"
            )
        self.labels, self.seed, self.kind, self.smallest = labels, seed, kind, classes[smallest]
        splits = StratifiedKFold(count, shuffle=True, random_state=seed).split(np.zeros((len(labels), 1)), labels)
        self.splits: list[tuple[Indices, Indices]] = list(splits)
        self.most_shots = min(int(np.bincount(labels[train])[present].min()) for train, _ in self.splits)

    def shots(self, wanted: Sequence[int] | Literal["auto"]) -> tuple[int, ...]:
        """Return the numbers of images per class to learn from.

        Raises:
            InputError: A class has fewer images.
        """
        if wanted == "auto":
            return tuple(shots for shots in AUTO if shots <= self.most_shots)
        for shots in wanted:
            if shots > self.most_shots:
                raise InputError(
                    f"shots is {shots}, but class {self.smallest!r} has {self.most_shots} {self.kind} to learn from in "
                    f"{len(self.splits)} folds"
                )
        return tuple(wanted)

    def draws(self, fold: int, shots: int) -> list[Indices]:
        """Return the images of each draw, ``shots`` of each class from those to learn from in a fold.

        The images of fewer shots are among those of more shots.
        """
        train = self.splits[fold][0]
        drawn = []
        for draw in range(DRAWS):
            rng = np.random.default_rng([self.seed, fold, draw])
            order = rng.permutation(train)
            drawn.append(
                np.concatenate([order[self.labels[order] == label][:shots] for label in np.unique(self.labels)])
            )
        return drawn


def cross_validate(
    classifier: Classifier,
    features: NDArray[Any],
    folds: Folds,
    shots: int | None,
    pool: ThreadPoolExecutor,
    done: Callable[[], None] = lambda: None,
) -> Accuracy:
    """Return the accuracy over all images, each predicted by classifiers that were fitted without its fold.

    Args:
        classifier: The classifier.
        features: [N, D].
        folds: The folds of the same images.
        shots: Number of images per class to learn from, drawn `DRAWS` times; None for all.
        pool: Threads in which the fits run.
        done: Called after each fit.
    """

    def judge(job: tuple[Indices, Indices]) -> NDArray[np.bool_]:
        return judged(classifier, features, folds.labels, *job, folds.seed)

    jobs = [
        (train, test)
        for fold, (all_others, test) in enumerate(folds.splits)
        for train in ([all_others] if shots is None else folds.draws(fold, shots))
    ]
    correct = []
    for result in pool.map(judge, jobs):
        correct.append(result)
        done()
    draws = len(jobs) // len(folds.splits)
    return accuracy([np.stack(correct[i : i + draws]) for i in range(0, len(correct), draws)])


def judged(
    classifier: Classifier, features: NDArray[Any], labels: Indices, train: Indices, test: Indices, seed: int
) -> NDArray[np.bool_]:
    """Fit a classifier on some images, and return for some others whether they are predicted right."""
    fitted = classifier.fit(features[train], labels[train], seed)
    return np.asarray(fitted.predict(features[test]) == labels[test])


@contextmanager
def fitting() -> Iterator[ThreadPoolExecutor]:
    """Yield as many threads as the linear algebra library has, and give the library one in each.

    Its own threads would mostly wait for one another on so few numbers.
    """
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController().select(user_api="blas")
    threads = max((library["num_threads"] for library in blas.info()), default=1)
    with blas.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        yield pool
