"""Ranks models on a dataset: `rank` with keywords, `rank_models` with `Settings`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parc.facts import imagenet_top1, read_imagenet_csv, says_something
from parc.interrupted import Interrupted
from parc.ranking.candidates import Candidate, expand_patterns, make_model
from parc.ranking.evaluation import cached_features, evaluate, score_rows
from parc.ranking.notes import log_notes
from parc.ranking.outcomes import Outcome, ranked_rows
from parc.ranking.probes import Probe, draw_probes
from parc.ranking.progress_bars import show_bars
from parc.ranking.ray_backend import evaluate_on_ray
from parc.ranking.results import Ranking
from parc.ranking.settings import Settings
from parc.ranking.training_data import log_trained_on, trained_on
from parc.scores.pca import parse_pca
from parc.scores.reference import Reference
from parc.scoring import Features
from plm_core.datasets import load_dataset, readable
from plm_core.errors import InputError

_log = logging.getLogger("parc")


def rank(
    dataset: str | Path,
    models: str | Sequence[str],
    methods: str | Sequence[str] = Settings.methods,
    *,
    budget: int = Settings.budget,
    runs: int = Settings.runs,
    pca: int | str | None = Settings.pca,
    bootstraps: int = Settings.bootstraps,
    reference: str | None = None,
    imagenet_csv: str | Path | None = None,
    pretrained: bool = True,
    device: str = Settings.device,
    dtype: str = Settings.dtype,
    fast: bool = Settings.fast,
    batch_size: int = Settings.batch_size,
    num_workers: int | None = None,
    ray: str | None = None,
    cache: bool = True,
    skip_unreadable: bool = False,
) -> Ranking:
    """Rank models by how well they suit a dataset, without training them.

    Each model needs one forward pass over a few images or videos. Its features are put into the cache as soon as it is
    done, so a ranking that was interrupted continues where it stopped when it is started again. A model that fails gets
    rows that say why.

    Example:
        >>> import parc
        >>> ranking = parc.rank("digits/", ["hiera_micro_digits", "hiera_micro_shapes"], budget=100)
        >>> ranking.models[0]
        'hiera_micro_digits.sklearn_digits'
        >>> ranking.save("ranking.png")

    Args:
        dataset: A folder with one folder of images or of videos per class, an .npz file, or ``hf:name[:split]``; see
            `plm_core.datasets.load_dataset`. `parc.ranking.views` says what a model gets of a video.
        models: Names and patterns of models; see `parc.ranking.candidates.expand_patterns`.
        methods: Methods to rank by; the first one orders the models. `Settings` describes them and all further
            arguments in detail.
        budget: Largest number of images in a probe.
        runs: Number of probes.
        pca: Number of dimensions to which features are reduced, ``"compat:32"`` or None.
        bootstraps: Number of half-samples for the intervals.
        reference: Name of a model that was trained on the dataset, for rsa and dds.
        imagenet_csv: Path of timm's results-imagenet.csv, for imagenet-top1.
        pretrained: False for random weights.
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        fast: Whether layers compute with packed weights where that measures as faster, on the CPU in fp32.
        batch_size: Number of images in a batch.
        num_workers: Number of processes that decode images.
        ray: Address of a Ray cluster, or ``local``.
        cache: Whether to use the cache of features.
        skip_unreadable: Whether to leave out images that cannot be read, which are an error otherwise.

    Raises:
        InputError, UnknownName: An argument or the dataset is not allowed. This is checked before any model runs.
        Interrupted: Ctrl-C was pressed. The exception carries the ranking of the models that were finished.
    """
    settings = Settings(
        methods=(methods,) if isinstance(methods, str) else tuple(methods),
        budget=budget,
        runs=runs,
        pca=pca,
        bootstraps=bootstraps,
        reference=reference,
        imagenet_csv=imagenet_csv,
        pretrained=pretrained,
        device=device,
        dtype=dtype,
        fast=fast,
        batch_size=batch_size,
        num_workers=num_workers,
        ray=ray,
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    return rank_models(dataset, [models] if isinstance(models, str) else models, settings)


def rank_models(dataset: str | Path, models: Sequence[str], settings: Settings) -> Ranking:
    """Rank models by how well they suit a dataset; the core of `rank`, with the same errors."""
    candidates = expand_patterns(models, settings.pretrained)
    data = readable(load_dataset(dataset), settings.skip_unreadable, decode=settings.skip_unreadable)
    probes = draw_probes(data, settings.budget, settings.runs)
    device = _check_surroundings(settings)
    _check_facts(candidates, settings)
    _check_methods(probes[0], settings)
    references = None if settings.reference is None else _reference_features(settings.reference, probes, settings)
    _warn_of_few_images(probes[0], settings)
    about: dict[str, Any] = {
        "dataset": str(dataset),
        "source": data.source,
        "kind": data.kind,
        "images": len(probes[0]),
        "of": len(data),
        "classes": len(probes[0].classes),
        "budget": settings.budget,
        "runs": settings.runs,
        "pca": settings.pca,
        "bootstraps": settings.bootstraps,
        "device": device,
        "dtype": settings.dtype,
        "fast": settings.fast,
        "skip_unreadable": settings.skip_unreadable,
        "left_out": list(data.left_out),
        "trained_on": trained_on(candidates, data),
    }
    outcomes: list[Outcome] = []

    def ranking() -> Ranking:
        return Ranking(ranked_rows(outcomes, settings.methods), settings.methods, about)

    try:
        with closing(_outcomes(candidates, probes, settings, references)) as source:
            outcomes.extend(source)
    except KeyboardInterrupt:
        raise Interrupted(ranking(), len(candidates) - len(outcomes)) from None
    log_notes((outcome.model, note) for outcome in outcomes for note in outcome.notes)
    log_trained_on(about["trained_on"], f"{len(data)} {data.kind}")
    return ranking()


def _check_surroundings(settings: Settings) -> str:
    """Check the device and the csv file now. Otherwise every model would report the same error.

    Returns:
        The device that the models run on.
    """
    from plm_core.packing import check_fast
    from plm_core.utils.devices import autocast, pick_device

    if settings.imagenet_csv is not None:
        read_imagenet_csv(settings.imagenet_csv)
    if settings.ray is not None:  # a Ray worker may have other devices than this process
        return f"{settings.device} of each Ray worker"
    device = pick_device(settings.device)
    autocast(device, settings.dtype)
    if settings.fast:
        check_fast(device, settings.dtype)
    return str(device)


def _check_facts(candidates: Sequence[Candidate], settings: Settings) -> None:
    """Check that the ImageNet accuracy of at least one model is known, if it is asked for."""
    names = [candidate.name for candidate in candidates if candidate.pretrained and says_something(candidate.name)]
    known = (imagenet_top1(name, settings.imagenet_csv)[0] is not None for name in names)
    if "imagenet-top1" in settings.methods and not any(known):
        raise InputError(
            "method 'imagenet-top1' is not known for any of the models; for those of timm, imagenet_csv is needed, the "
            "path of timm's results-imagenet.csv"
        )


def _check_methods(probe: Probe, settings: Settings) -> None:
    """Score random features now: what a method says of these labels or its options, every model would report."""
    features = np.random.default_rng(0).standard_normal((len(probe), 8))
    trial = Features(features, np.full((len(probe), 2), 0.5), None if settings.reference is None else features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = score_rows("random features", trial, probe, replace(settings, pca=None, bootstraps=0))
    for row in rows:
        if row.error:
            raise InputError(f"method {row.method!r} cannot rank this dataset: {row.error}")


def _warn_of_few_images(probe: Probe, settings: Settings) -> None:
    components = 0 if settings.pca is None else parse_pca(settings.pca)[0]
    if settings.score_methods and 2 * components > len(probe):
        _log.warning(
            "%d %s are few for pca=%s: after the reduction all of them are almost equally far apart",
            len(probe),
            probe.kind,
            settings.pca,
        )


def _reference_features(name: str, probes: Sequence[Probe], settings: Settings) -> list[Any]:
    """Return the features of the reference model on each probe. An error stops the ranking: rsa and dds need them."""
    candidates = expand_patterns([name])
    if len(candidates) > 1:
        raise InputError(f"reference {name!r} matches {len(candidates)} models; one is needed")
    entries = cached_features(candidates[0], make_model(candidates[0]), probes, settings)
    return [Reference(entry.features.features) for entry in entries]  # ranked once, not for each model


def _outcomes(
    candidates: Sequence[Candidate], probes: Sequence[Probe], settings: Settings, references: Sequence[Any] | None
) -> Generator[Outcome, None, None]:
    """Yield the outcome of each model when it is finished, and show the progress."""
    with show_bars(len(candidates), sum(map(len, probes))) as bars:
        if settings.ray is not None:
            for outcome in evaluate_on_ray(candidates, probes, settings, references, settings.ray):
                bars.end()
                yield outcome
            return
        for candidate in candidates:
            bars.begin(str(candidate))
            outcome = evaluate(candidate, probes, settings, references, bars.advance)
            bars.end()
            yield outcome
