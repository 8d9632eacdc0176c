"""One model of a bank on the probes: made, run, scored. The unit of work that is done here or on a cluster."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from parc.facts import Facts, fact_score, facts_of
from parc.ranking.cache import Cache, Entry, Key
from parc.ranking.candidates import Candidate, has_trained_head, make
from parc.ranking.datasets import Probe
from parc.scoring import Features, Row, score_bank
from plm_core.errors import PlmError

_log = logging.getLogger("parc")


@dataclass(frozen=True)
class Settings:
    """What is the same for every model of a ranking."""

    methods: tuple[str, ...]
    """Scores of features, as ``knn:k=5``."""
    statics: tuple[str, ...] = ()
    """Facts of a model that serve as a score, such as its number of parameters."""
    images: int | None = None
    """In the whole dataset, for the heuristic."""
    imagenet_csv: Path | None = None
    pca: int | str | None = 32
    bootstraps: int = 20
    device: str = "auto"
    dtype: str = "fp32"
    batch: int = 32
    workers: int | None = None
    cache: bool = True
    cache_root: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a model."""

    model: str
    params: int = 0
    scores: dict[str, list[Row]] = field(default_factory=dict)
    """Of each method a row per run."""
    seconds: float = 0.0
    """To extract its features, now or when the cache got them."""
    found: bool = False
    """Whether all features were in the cache."""
    error: str = ""
    """Why there are no scores."""
    notes: tuple[str, ...] = ()
    """What scores warned of."""


def evaluate(
    candidate: Candidate,
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Make a model, extract the features of every probe, and score them; what fails is told in the outcome.

    Args:
        candidate: The model.
        probes: One for each run.
        settings: Methods and how to run.
        references: For each run the features of a model that was trained on the data, for RSA and DDS.
        advance: Called with the number of images that are done.
    """
    try:
        return _evaluate(candidate, probes, settings, references, advance)
    except Exception as e:  # one model of a bank may fail in any way; none may stop the others
        _log.debug("%s failed", candidate, exc_info=True)
        return Outcome(str(candidate), error=one_line(e))


def one_line(error: BaseException) -> str:
    """What is worth knowing of an error, in a line."""
    lines = str(error).strip().splitlines()
    known = type(error).__module__.startswith(("plm_core", "parc"))
    return lines[0] if known and lines else ": ".join([type(error).__name__, *lines[:1]])


def _evaluate(
    candidate: Candidate,
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None,
    advance: Callable[[int], None],
) -> Outcome:
    model = make(candidate) if settings.methods else None
    facts = _facts(candidate, model, settings)
    scores = {method: [_static(str(candidate), method, facts, settings)] for method in settings.statics}
    entries: list[Entry] = []
    caught: list[warnings.WarningMessage] = []
    if model is not None:
        entries = entries_of(candidate, model, probes, settings, advance)
        del model
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for i, (probe, entry) in enumerate(zip(probes, entries, strict=True)):
                features = Features(entry.features.features, entry.features.probs, references and references[i])
                for row in _score(str(candidate), features, probe, settings):
                    scores.setdefault(row.method, []).append(row)
    return Outcome(
        str(candidate),
        facts.params,
        scores,
        seconds=sum(entry.seconds for entry in entries),
        found=bool(entries) and all(entry.found for entry in entries),
        notes=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
    )


def _facts(candidate: Candidate, model: Any, settings: Settings) -> Facts:
    """What is known of the model beforehand; of random weights, that they were trained on nothing."""
    if model is None:  # no need of weights
        known = facts_of(candidate.name, imagenet_csv=settings.imagenet_csv)
    else:
        known = facts_of(model, candidate.name, settings.imagenet_csv)
    return known if candidate.pretrained else replace(known, imagenet_top1=None, images=None)


def _static(model: str, method: str, facts: Facts, settings: Settings) -> Row:
    try:
        score, error = fact_score(method, facts, settings.images), None
    except PlmError as e:
        score, error = None, str(e)
    return Row(model, method, score, None, None, 0.0, error)


def entries_of(
    candidate: Candidate,
    model: Any,
    probes: Sequence[Probe],
    settings: Settings,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Entry]:
    """Features of every probe, from the cache or from the model."""
    from parc.ranking.extraction import extract, transform_digest, weights_digest
    from plm_core.utils.devices import pick_device

    cache = Cache(settings.cache_root, settings.cache)
    weights, transform = (weights_digest(model), transform_digest(model, settings.dtype)) if cache.enabled else ("", "")
    device = pick_device(settings.device)
    run = partial(
        extract,
        head=has_trained_head(model, candidate),
        device=device,
        dtype=settings.dtype,
        batch=settings.batch,
        workers=settings.workers,
        advance=advance,
    )
    entries = []
    for probe in probes:
        key = Key(weights, transform, probe.digest, probe.run)
        entry = cache.get(key, probe.labels, lambda probe=probe: run(model.to(device), probe))  # type: ignore[misc]
        if entry.found:
            advance(len(probe))
        entries.append(entry)
    return entries


def _score(model: str, features: Features, probe: Probe, settings: Settings) -> list[Row]:
    return score_bank(
        {model: features},
        probe.labels,
        list(settings.methods),
        pca=settings.pca,
        num_classes=len(probe.classes),
        bootstraps=settings.bootstraps,
        seed=probe.run,
    )
