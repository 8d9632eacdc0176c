"""Probes models on a dataset: `probe` with keywords, `probe_models` with `ProbeSettings`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from parc.interrupted import Interrupted
from parc.probing.evaluation import Images, evaluate
from parc.probing.outcomes import Outcome, probe_rows
from parc.probing.results import Probing
from parc.probing.settings import ProbeSettings
from parc.probing.validation import Folds
from parc.ranking.candidates import expand_patterns
from parc.ranking.notes import log_notes
from parc.ranking.probes import draw_probes
from parc.ranking.progress_bars import show_bars
from parc.ranking.training_data import log_trained_on, trained_on
from plm_core.datasets import Dataset
from plm_core.datasets.splits import own_splits
from plm_core.errors import InputError


def probe(
    dataset: str | Path,
    models: str | Sequence[str],
    method: str = ProbeSettings.method,
    *,
    folds: int = ProbeSettings.folds,
    shots: Iterable[int] | Literal["auto"] = ProbeSettings.shots,
    budget: int = ProbeSettings.budget,
    seed: int = ProbeSettings.seed,
    pretrained: bool = True,
    device: str = ProbeSettings.device,
    dtype: str = ProbeSettings.dtype,
    fast: bool = ProbeSettings.fast,
    batch_size: int = ProbeSettings.batch_size,
    num_workers: int | None = None,
    cache: bool = True,
    skip_unreadable: bool = False,
) -> Probing:
    """Judge models by a simple classifier on their frozen features, with cross-validation.

    This is the step between `parc.rank`, which needs fewer images, and a fine-tuning. Each model needs one forward pass
    per image. The features are kept in the cache, as those of a ranking are. A model that fails gets rows that say why.

    Example:
        >>> import parc
        >>> probing = parc.probe("digits/", ["hiera_micro_digits", "hiera_micro_shapes"], "knn", shots=[1, 5])
        >>> probing.models[0]
        'hiera_micro_digits.sklearn_digits'
        >>> [(row.judged, row.shots, row.images) for row in probing.of(probing.models[0])]
        [('folds', None, 100), ('folds', 1, 100), ('folds', 5, 100)]

    Args:
        dataset: As for `plm_core.datasets.load_splits`: images or videos. If it has a split to judge by, its accuracy
            is reported too.
        models: Names and patterns of models; see `parc.ranking.candidates.expand_patterns`.
        method: ``linear`` or ``knn``, with options. `ProbeSettings` describes it and all further arguments in detail.
        folds: Number of folds.
        shots: Numbers of images per class for the few-shot curve, or ``auto``.
        budget: Largest number of images.
        seed: Seed of the folds and of the few-shot draws.
        pretrained: False for random weights.
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        fast: Whether layers compute with packed weights where that measures as faster, on the CPU in fp32.
        batch_size: Number of images in a batch.
        num_workers: Number of processes that decode images.
        cache: Whether to use the cache of features.
        skip_unreadable: Whether to leave out images that cannot be read, which are an error otherwise.

    Raises:
        InputError, UnknownName: An argument or the dataset is not allowed. This is checked before any model runs.
        Interrupted: Ctrl-C was pressed. The exception carries the probing of the models that were finished.
    """
    settings = ProbeSettings(
        method=method,
        folds=folds,
        shots=shots if shots == "auto" else tuple(shots),
        budget=budget,
        seed=seed,
        pretrained=pretrained,
        device=device,
        dtype=dtype,
        fast=fast,
        batch_size=batch_size,
        num_workers=num_workers,
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    return probe_models(dataset, [models] if isinstance(models, str) else models, settings)


def probe_models(dataset: str | Path, models: Sequence[str], settings: ProbeSettings) -> Probing:
    """Judge models by a simple classifier on their frozen features; the core of `probe`, with the same errors."""
    candidates = expand_patterns(models, settings.pretrained)
    device = _check_device(settings)
    train, val = _data(dataset, settings)
    images = _images(train, val, settings)
    about: dict[str, Any] = {
        "dataset": str(dataset),
        "source": train.source,
        "kind": images.train.kind,
        "images": len(images.train),
        "of": len(train),
        "classes": len(images.train.classes),
        "images_per_class": len(images.train) * (1 - 1 / settings.folds) / len(set(images.train.labels.tolist())),
        "val_images": 0 if images.val is None else len(images.val),
        "method": settings.method,
        "folds": settings.folds,
        "seed": settings.seed,
        "device": device,
        "dtype": settings.dtype,
        "fast": settings.fast,
        "skip_unreadable": settings.skip_unreadable,
        "left_out": [*train.left_out, *(() if val is None else val.left_out)],
        "trained_on": trained_on(candidates, train),
    }
    outcomes: list[Outcome] = []
    try:
        with show_bars(len(candidates), images.steps) as bars:
            for candidate in candidates:
                bars.begin(str(candidate))
                outcomes.append(evaluate(candidate, images, settings, bars.advance))
                bars.end()
    except KeyboardInterrupt:
        left = len(candidates) - len(outcomes)
        raise Interrupted(Probing(probe_rows(outcomes, images.kinds), about), left) from None
    log_notes((outcome.model, note) for outcome in outcomes for note in outcome.notes)
    log_trained_on(about["trained_on"], f"{len(train)} {train.kind}")
    return Probing(probe_rows(outcomes, images.kinds), about)


def _data(dataset: str | Path, settings: ProbeSettings) -> tuple[Dataset, Dataset | None]:
    """Return the images or videos to probe on, and those of the split to judge by, if there is one."""
    train, val = own_splits(dataset, settings.skip_unreadable)
    if train.labels.ndim > 1:
        raise InputError(
            f"dataset {str(dataset)!r} has several labels per image; a probe needs one class per image "
            "(plm rank takes several, by the methods parc and knn)"
        )
    return train, val


def _images(train: Dataset, val: Dataset | None, settings: ProbeSettings) -> Images:
    """Draw the images or videos that the models are run on."""
    probe = draw_probes(train, settings.budget)[0]
    folds = Folds(probe.labels, probe.classes, settings.folds, settings.seed, probe.kind)
    shots = folds.shots(settings.shots)
    return Images(probe, None if val is None else draw_probes(val, settings.budget)[0], folds, shots)


def _check_device(settings: ProbeSettings) -> str:
    """Return the device that the models run on. Otherwise every model would report the same error."""
    from plm_core.packing import check_fast
    from plm_core.utils.devices import autocast, pick_device

    device = pick_device(settings.device)
    autocast(device, settings.dtype)
    if settings.fast:
        check_fast(device, settings.dtype)
    return str(device)
