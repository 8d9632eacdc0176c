"""A bank of models ranked on a dataset."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from parc.ranking.candidates import Candidate, expand, make
from parc.ranking.datasets import Probe, draw, load
from parc.ranking.progress_bars import bars
from parc.scores.pca import read
from plm_core.errors import InputError, UnknownName
from plm_core.utils.near_misses import miss
from plm_core.utils.text import natural_key

if TYPE_CHECKING:
    from parc.ranking.evaluation import Outcome, Settings

_log = logging.getLogger("parc")
METHODS = ("parc", "logme", "knn")


@dataclass(frozen=True)
class RankedRow:
    """One model by one method."""

    model: str
    method: str
    score: float | None
    """Mean over the probes; higher is better. None where there is none."""
    low: float | None
    high: float | None
    """Interval of 90 %, mean over the probes."""
    rank: int | None
    """Among the models that have this score, from 1; the same for equal scores."""
    params: int
    extract_seconds: float
    score_seconds: float
    cached: bool
    """Whether the features were in the cache; ``extract_seconds`` then says what they had cost."""
    error: str = ""


@dataclass(frozen=True)
class Ranking:
    """Models by how well they suit a dataset, best first by the first method."""

    rows: tuple[RankedRow, ...]
    methods: tuple[str, ...]
    about: Mapping[str, Any]
    """The dataset, the probe and the settings."""

    @property
    def models(self) -> list[str]:
        """Names, best first; models without a score by the first method come last."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def of(self, model: str) -> dict[str, RankedRow]:
        """A model's rows by method."""
        return {row.method: row for row in self.rows if row.model == model}

    def mean_rank(self, model: str) -> float | None:
        """Mean of a model's ranks over the methods that could score it."""
        ranks = [row.rank for row in self.of(model).values() if row.rank is not None]
        return fmean(ranks) if ranks else None

    def save(self, path: str | Path) -> None:
        """Write it as the ending says: .csv, .json, .md, or a picture, .png, .svg or .pdf."""
        from parc.ranking.report import save

        save(self, path)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a ranking; ``ranking`` holds the models that were finished."""

    def __init__(self, ranking: Ranking, left: int) -> None:
        super().__init__(f"{left} models were not finished")
        self.ranking = ranking
        self.left = left


def rank(
    dataset: str | Path,
    models: str | Sequence[str],
    methods: str | Sequence[str] = METHODS,
    *,
    budget: int = 500,
    runs: int = 1,
    pca: int | str | None = 32,
    bootstraps: int = 20,
    reference: str | None = None,
    imagenet_csv: str | Path | None = None,
    pretrained: bool = True,
    device: str = "auto",
    dtype: str = "fp32",
    batch: int = 32,
    workers: int | None = None,
    ray: str | None = None,
    cache: bool = True,
) -> Ranking:
    """Rank models by how well they suit a dataset, without training: one forward pass over a few images each.

    Features are kept in the cache as soon as a model is done, so an interrupted ranking goes on where it stopped when
    it is asked for again. A model that fails is a row that says why.

    Args:
        dataset: See `parc.ranking.datasets.load`: a folder of images by class, an .npz file, ``hf:name[:split]``.
        models: Names and patterns, see `parc.ranking.candidates.expand`.
        methods: Of `parc.methods`, with options as ``knn:k=5,metric=cosine``; or ``params``, ``layers``,
            ``imagenet-top1``, ``heuristic``. The first one ranks.
        budget: Images of the probe at most.
        runs: Probes, over which scores are averaged.
        pca: Dimensions to which features are reduced first; None for all, ``"compat:32"`` for the published recipe.
            A model with fewer dimensions keeps all of them. A method may have its own: ``knn:pca=None``.
        bootstraps: Half-samples of the probe for the intervals; 0 for none.
        reference: For ``rsa`` and ``dds``, a model that was trained on the data.
        imagenet_csv: timm's results-imagenet.csv, for ``imagenet-top1``.
        pretrained: False for random weights throughout.
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: ``fp32``, or ``bf16`` and ``fp16`` by autocast.
        batch: Images at once.
        workers: Processes that decode images, see `parc.ranking.extraction.extract`.
        ray: Address of a Ray cluster that does the work; ``local`` starts one.
        cache: Whether to read and write the cache of features, ``$PLM_CACHE/parc``.

    Raises:
        InputError, UnknownName: An argument, or the dataset; before any model runs.
        Interrupted: Ctrl-C; carries the ranking of what was finished.
    """
    chosen = _methods(methods)
    _check_numbers(budget=budget, runs=runs, batch=batch, bootstraps=bootstraps, workers=workers)
    components = 0 if pca is None else read(pca)[0]
    candidates = expand([models] if isinstance(models, str) else models, pretrained)
    images = load(dataset)
    probes = draw(images, budget, runs)
    from parc.facts import FACT_METHODS as STATIC
    from parc.facts import read_imagenet_csv
    from parc.ranking.evaluation import Settings
    from plm_core.utils.devices import autocast, pick_device

    if ray is None:  # else the workers' devices count
        autocast(pick_device(device), dtype)  # a wrong one should fail now, not in every row
    settings = Settings(
        methods=tuple(m for m in chosen if m not in STATIC),
        statics=tuple(m for m in chosen if m in STATIC),
        images=len(images),
        imagenet_csv=None if imagenet_csv is None else Path(imagenet_csv).absolute(),
        pca=pca,
        bootstraps=bootstraps,
        device=device,
        dtype=dtype,
        batch=batch,
        workers=workers,
        cache=cache,
    )
    if imagenet_csv is not None:
        read_imagenet_csv(imagenet_csv)
    references = None if reference is None else _references(reference, probes, settings)
    if settings.methods and 2 * components > len(probes[0]):
        _log.warning("%d images are few for pca=%s: when reduced, all are nearly as far apart", len(probes[0]), pca)
    about = {
        "dataset": str(dataset),
        "images": len(probes[0]),
        "of": len(images),
        "classes": len(probes[0].classes),
        "budget": budget,
        "runs": runs,
        "pca": pca,
        "bootstraps": bootstraps,
        "device": device,
        "dtype": dtype,
    }
    outcomes: list[Outcome] = []
    try:
        with closing(_outcomes(candidates, probes, settings, references, ray)) as source:
            outcomes.extend(source)
    except KeyboardInterrupt:
        raise Interrupted(_ranking(outcomes, chosen, about), len(candidates) - len(outcomes)) from None
    _say_notes(outcomes)
    return _ranking(outcomes, chosen, about)


def _methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Each method once, as it was written; an unknown one raises."""
    from parc.facts import FACT_METHODS as STATIC
    from parc.scoring import methods as known
    from parc.scoring import parse

    texts = list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    for text in texts:
        if text in STATIC:
            continue
        try:
            parse(text)
        except UnknownName:
            raise UnknownName(miss("method", text.partition(":")[0], [*known(), *STATIC])) from None
    if not texts:
        raise InputError("methods is empty; at least one is needed")
    return tuple(texts)


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        least = 0 if name in ("bootstraps", "workers") else 1
        if number is not None and number < least:
            raise InputError(f"{name} is {number}; {least} or more is allowed")


def _references(name: str, probes: Sequence[Probe], settings: Settings) -> list[Any]:
    """Features of the model that was trained on the data. Without them there is nothing to rank: errors go through."""
    from parc.ranking.evaluation import entries_of

    candidates = expand([name])
    if len(candidates) > 1:
        raise InputError(f"reference {name!r} matches {len(candidates)} models; one is needed")
    return [entry.features.features for entry in entries_of(candidates[0], make(candidates[0]), probes, settings)]


def _outcomes(
    candidates: Sequence[Candidate],
    probes: Sequence[Probe],
    settings: Settings,
    references: Sequence[Any] | None,
    ray: str | None,
) -> Generator[Outcome, None, None]:
    from parc.ranking.evaluation import evaluate

    with bars(len(candidates), sum(map(len, probes))) as shown:
        if ray is not None:
            from parc.ranking.ray_backend import evaluate_all

            for outcome in evaluate_all(candidates, probes, settings, references, ray):
                shown.end()
                yield outcome
            return
        for candidate in candidates:
            shown.begin(str(candidate))
            outcome = evaluate(candidate, probes, settings, references, shown.advance)
            shown.end()
            yield outcome


def _say_notes(outcomes: Sequence[Outcome]) -> None:
    """What scores warned of, each once."""
    models: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note in outcome.notes:
            models.setdefault(note, []).append(outcome.model)
    for note, concerned in models.items():
        more = f" and {len(concerned) - 1} more" if len(concerned) > 1 else ""
        _log.warning("%s (%s%s)", note, concerned[0], more)


def _ranking(outcomes: Sequence[Outcome], methods: tuple[str, ...], about: Mapping[str, Any]) -> Ranking:
    ranked: dict[str, list[RankedRow]] = {method: _ranked(outcomes, method) for method in methods}
    first = {row.model: row for row in ranked[methods[0]]}
    by_model = {model: [row for rows in ranked.values() for row in rows if row.model == model] for model in first}
    order = sorted(first, key=lambda model: (first[model].rank is None, first[model].rank or 0, natural_key(model)))
    return Ranking(tuple(row for model in order for row in by_model[model]), methods, about)


def _ranked(outcomes: Sequence[Outcome], method: str) -> list[RankedRow]:
    rows = [_merged(outcome, method) for outcome in outcomes]
    scores = [row.score for row in rows if row.score is not None]
    return [
        row if row.score is None else replace(row, rank=1 + sum(score > row.score for score in scores)) for row in rows
    ]


def _merged(outcome: Outcome, method: str) -> RankedRow:
    """A model's rows of one method, one per probe, as one."""
    runs = outcome.scores.get(method, [])
    error = outcome.error or next((row.error for row in runs if row.error), "")
    return RankedRow(
        model=outcome.model,
        method=method,
        score=None if error else _mean(row.score for row in runs),
        low=None if error else _mean(row.low for row in runs),
        high=None if error else _mean(row.high for row in runs),
        rank=None,
        params=outcome.params,
        extract_seconds=outcome.seconds,
        score_seconds=sum(row.seconds for row in runs),
        cached=outcome.found,
        error=error,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
