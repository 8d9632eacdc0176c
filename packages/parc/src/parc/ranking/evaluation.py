"""One model of a ranking: load it, extract its features on every probe, score them.

This is the unit of work that runs in this process or on a Ray cluster.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from parc.facts import Facts, fact_score, facts_of
from parc.ranking.cache import Cache, CacheEntry, Key
from parc.ranking.candidates import Candidate, has_trained_head, make_model
from parc.ranking.outcomes import Outcome
from parc.ranking.probes import Probe
from parc.ranking.settings import Settings
from parc.scoring import Features, ScoreRow, score_bank
from plm_core.errors import PlmError
from plm_core.utils.text import first_line

_log = logging.getLogger("parc")


def evaluate(
    candidate: Candidate,
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Load a model, extract its features on every probe, and score them. A failure becomes the outcome's error.

    Args:
        candidate: The model.
        probes: One probe per run.
        settings: The settings of the ranking.
        references: For each probe the features of a model that was trained on the dataset, for rsa and dds.
        advance: Called with a number of images or videos when so many are done.
    """
    try:
        return _evaluate(candidate, probes, settings, references, advance)
    except Exception as e:  # one model may fail in any way, and the others must not suffer from it
        _log.debug("%s failed", candidate, exc_info=True)
        return Outcome(str(candidate), error=_one_line(e))


def _one_line(error: Exception) -> str:
    """Return the first line of an error, with the name of its type unless the error is one of plm-core's."""
    if isinstance(error, PlmError) or not str(error).strip():
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _evaluate(
    candidate: Candidate,
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None,
    advance: Callable[[int], None],
) -> Outcome:
    model = make_model(candidate) if settings.score_methods else None
    facts = _facts(candidate, model, settings)
    scores = {
        method: [_fact_row(str(candidate), method, facts, probes[0].dataset_size)] for method in settings.fact_methods
    }
    entries: list[CacheEntry] = []
    caught: list[warnings.WarningMessage] = []
    notes: list[str] = []
    if model is not None:
        entries = cached_features(candidate, model, probes, settings, advance, notes.append)
        del model  # frees its memory before the scores need some
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for i, (probe, entry) in enumerate(zip(probes, entries, strict=True)):
                features = Features(entry.features.features, entry.features.probs, references and references[i])
                for row in score_rows(str(candidate), features, probe, settings):
                    scores.setdefault(row.method, []).append(row)
    return Outcome(
        str(candidate),
        facts.params,
        scores,
        seconds=sum(entry.seconds for entry in entries),
        cached=bool(entries) and all(entry.cached for entry in entries),
        notes=tuple(dict.fromkeys([*notes, *(str(warning.message) for warning in caught)])),
    )


def _facts(candidate: Candidate, model: Any, settings: Settings) -> Facts:
    """Return the facts about a model. Random weights have no accuracy and no training images."""
    if model is None:  # the name is enough, no weights are needed
        facts = facts_of(candidate.name, imagenet_csv=settings.imagenet_csv)
    else:
        facts = facts_of(model, candidate.name, settings.imagenet_csv)
    return facts if candidate.pretrained else replace(facts, imagenet_top1=None, images=None)


def _fact_row(model: str, method: str, facts: Facts, dataset_size: int) -> ScoreRow:
    try:
        score, error = fact_score(method, facts, dataset_size), None
    except PlmError as e:
        score, error = None, str(e)
    return ScoreRow(model, method, score, None, None, 0.0, error)


def cached_features(
    candidate: Candidate,
    model: Any,
    probes: Sequence[Probe],
    settings: Settings,
    advance: Callable[[int], None] = lambda images: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[CacheEntry]:
    """Return the features of a model on every probe, from the cache or from a forward pass.

    Args:
        candidate: The name of the model.
        model: The model. The setting ``fast`` changes it.
        probes: The images or videos.
        settings: The settings of the ranking.
        advance: Called with a number of images or videos when so many are done.
        note: Called with a sentence about the model that the user should know.
    """
    from parc.ranking.extraction import extract, preprocess_digest
    from plm_core.embeddings.digests import weights_digest
    from plm_core.packing import check_fast, make_fast
    from plm_core.utils.devices import pick_device

    cache = Cache(enabled=settings.cache)
    weights, preprocess = "", ""
    if cache.enabled:
        weights, preprocess = weights_digest(model), preprocess_digest(model, settings.dtype, probes[0].kind)
    head = has_trained_head(model, candidate)
    if settings.fast:
        check_fast(pick_device(settings.device), settings.dtype)
        if why := make_fast(model):
            note(why)
    entries = []
    for probe in probes:
        key = Key(weights, preprocess, probe.digest, probe.run)
        entry = cache.get(
            key,
            probe.labels,
            lambda probe=probe: extract(model, probe, settings, head=head, advance=advance),  # type: ignore[misc]
        )
        if entry.cached:
            advance(len(probe))
        entries.append(entry)
    return entries


def score_rows(model: str, features: Features, probe: Probe, settings: Settings) -> list[ScoreRow]:
    """Score the features of a model on a probe by every method."""
    return score_bank(
        {model: features},
        probe.labels,
        list(settings.score_methods),
        pca=settings.pca,
        num_classes=len(probe.classes),
        bootstraps=settings.bootstraps,
        seed=probe.run,
    )
