"""The settings of a probing, built once by the command line or by `parc.probe` and handed down unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parc.checks import whole_number
from parc.ranking.settings import Settings

AUTO = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of images per class that ``auto`` stands for, as far as there are so many."""


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The classifier of a probing, the images that it learns from, and how the models run. Images stand for videos too.

    Raises:
        UnknownName: The classifier is unknown.
        InputError: Any other value is not allowed.
    """

    method: str = "linear"
    """``linear``: logistic regression, whose regularisation is chosen by an inner validation unless it is given, as in
    ``linear:C=0.1``. ``knn``: nearest neighbours, with options ``knn:k=5,metric=cosine``."""

    folds: int = 5
    """Number of stratified folds. Each image is predicted by the classifier that was fitted without its fold."""

    shots: tuple[int, ...] | Literal["auto"] = ()
    """Numbers of images per class for the few-shot curve, each drawn several times in each fold. ``auto`` stands for 1,
    2, 5, 10, 20, 50 and 100 as far as every class has so many. All images are always tried too."""

    budget: int = 5000
    """Largest number of images, drawn class by class in turns; see `parc.sample_probe`."""

    seed: int = 0
    """Seed of the folds and of the few-shot draws."""

    pretrained: bool = True
    """False to give every model random weights."""

    device: str = Settings.device
    """``auto`` for an accelerator if there is one, or a device as torch names it: ``cpu``, ``cuda``, ``cuda:1``."""

    dtype: str = Settings.dtype
    """``fp32``, or ``bf16`` and ``fp16`` by autocast."""

    fast: bool = Settings.fast
    """Whether layers compute with packed weights where that measures as faster, as for a ranking."""

    batch_size: int = Settings.batch_size
    """Number of images in a batch."""

    num_workers: int | None = None
    """Number of processes that decode images. None stands for a few if the model runs on an accelerator, and for 0 on a
    CPU."""

    cache: bool = True
    """Whether features are read from and written to the cache, ``$PLM_CACHE/parc``."""

    skip_unreadable: bool = False
    """Whether images that cannot be read are left out, with a warning that counts and names them. Otherwise they are an
    error before any model runs."""

    def __post_init__(self) -> None:
        from parc.probing.classifiers import parse_classifier

        parse_classifier(self.method)
        if self.shots != "auto":
            shots = {whole_number(shots, "shots", 1) for shots in self.shots}
            object.__setattr__(self, "shots", tuple(sorted(shots)))
        for name, least in {"folds": 2, "budget": 2, "seed": 0, "batch_size": 1}.items():
            whole_number(getattr(self, name), name, least)
        if self.num_workers is not None:
            whole_number(self.num_workers, "num_workers")

    def extraction(self) -> Settings:
        """Return the settings by which the features are extracted, as for a ranking, so that both share the cache."""
        return Settings(
            methods=("knn",),
            budget=self.budget,
            pretrained=self.pretrained,
            device=self.device,
            dtype=self.dtype,
            fast=self.fast,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            cache=self.cache,
            skip_unreadable=self.skip_unreadable,
        )
