"""One model of a probing: load it, extract its features, fit the classifiers."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc.facts import facts_of
from parc.probing.accuracy import Accuracy, accuracy
from parc.probing.classifiers import parse_classifier
from parc.probing.outcomes import FOLDS, VAL, Kind, Outcome
from parc.probing.settings import ProbeSettings
from parc.probing.validation import DRAWS, Folds, cross_validate, fitting, judged
from parc.ranking.candidates import Candidate, make_model
from parc.ranking.evaluation import cached_features
from parc.ranking.probes import Probe
from plm_core.errors import PlmError
from plm_core.utils.text import first_line

_log = logging.getLogger("parc")


@dataclass(frozen=True)
class Images:
    """The images or videos of a probing, the same for all models."""

    train: Probe
    val: Probe | None
    """The images of the split to judge by, if there is one."""
    folds: Folds
    shots: tuple[int, ...]

    @property
    def probes(self) -> list[Probe]:
        """Everything that a model is run on."""
        return [self.train] if self.val is None else [self.train, self.val]

    @property
    def kinds(self) -> list[Kind]:
        """The accuracies of each model, the one that orders the models first."""
        return [(FOLDS, None), *([(VAL, None)] if self.val else []), *((FOLDS, shots) for shots in self.shots)]

    @property
    def steps(self) -> int:
        """Number of images to see and classifiers to fit, for a progress bar."""
        fits = len(self.folds.splits) * (1 + DRAWS * len(self.shots)) + (self.val is not None)
        return sum(map(len, self.probes)) + fits


def evaluate(
    candidate: Candidate,
    images: Images,
    settings: ProbeSettings,
    advance: Callable[[int], None] = lambda steps: None,
) -> Outcome:
    """Load a model, extract its features, and judge classifiers on them. A failure becomes the outcome's error.

    Args:
        candidate: The model.
        images: The images, their folds and the numbers of shots.
        settings: The settings of the probing.
        advance: Called with a number of steps when so many are done, see `Images.steps`.
    """
    try:
        return _evaluate(candidate, images, settings, advance)
    except Exception as e:  # one model may fail in any way, and the others must not suffer from it
        _log.debug("%s failed", candidate, exc_info=True)
        expected = isinstance(e, PlmError) or not str(e).strip()
        return Outcome(str(candidate), error=first_line(e) if expected else f"{type(e).__name__}: {first_line(e)}")


def _evaluate(candidate: Candidate, images: Images, settings: ProbeSettings, advance: Callable[[int], None]) -> Outcome:
    model = make_model(candidate)
    params = facts_of(model, candidate.name).params
    notes: list[str] = []
    entries = cached_features(candidate, model, images.probes, settings.extraction(), advance, notes.append)
    del model
    start = time.perf_counter()
    with warnings.catch_warnings():
        # L-BFGS says when it stops before its tolerance, by when the predictions hardly change any more
        warnings.simplefilter("ignore")
        accuracies = _accuracies([entry.features.features for entry in entries], images, settings, advance)
    return Outcome(
        str(candidate),
        params,
        accuracies,
        extract_seconds=sum(entry.seconds for entry in entries),
        fit_seconds=time.perf_counter() - start,
        cached=all(entry.cached for entry in entries),
        notes=tuple(notes),
    )


def _accuracies(
    features: list[NDArray[Any]], images: Images, settings: ProbeSettings, advance: Callable[[int], None]
) -> dict[Kind, Accuracy]:
    classifier = parse_classifier(settings.method)
    accuracies: dict[Kind, Accuracy] = {}
    with fitting() as pool:
        for kind in images.kinds:
            if kind[0] == FOLDS:
                accuracies[kind] = cross_validate(
                    classifier, features[0], images.folds, kind[1], pool, lambda: advance(1)
                )
            elif images.val is not None:
                labels = np.concatenate([images.train.labels, images.val.labels])
                train, test = np.split(np.arange(len(labels)), [len(images.train)])
                correct = judged(classifier, np.concatenate(features), labels, train, test, settings.seed)
                accuracies[kind] = accuracy([correct[None]])
                advance(1)
    return accuracies
