"""The settings of a ranking.

`Settings` is built once, by the command line or by `parc.rank`, and handed down unchanged. NumPy and the scores are
imported only to check the methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parc.checks import whole_number
from parc.facts import FACT_METHODS
from plm_core.errors import InputError, UnknownName
from plm_core.utils.arguments import DEVICE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The methods of a ranking, the size of its probes, and how the models run. Images stand for videos too.

    Raises:
        UnknownName: A method is unknown.
        InputError: Any other value is not allowed.
    """

    methods: tuple[str, ...] = ("parc", "logme", "knn")
    """Names from `parc.methods`, with options where needed (``knn:k=5,metric=cosine``), or facts about a model:
    ``params``, ``layers``, ``imagenet-top1``, ``heuristic``. The first method orders the models."""

    budget: int = 500
    """Largest number of images in a probe."""

    runs: int = 1
    """Number of probes. Scores are averaged over them."""

    pca: int | str | None = 32
    """Number of dimensions to which features are reduced before they are scored: a number for exact principal
    components, ``"compat:32"`` for the published recipe, None for no reduction. A model with fewer dimensions keeps all
    of them. A method may have its own reduction: ``knn:pca=None``."""

    bootstraps: int = 20
    """Number of half-samples of a probe that give the intervals; 0 for no intervals."""

    reference: str | None = None
    """Name of a model that was trained on the dataset. The methods rsa and dds compare with it."""

    imagenet_csv: str | Path | None = None
    """Path of timm's results-imagenet.csv, for the method imagenet-top1."""

    pretrained: bool = True
    """False to give every model random weights."""

    device: str = DEVICE
    """``auto`` for an accelerator if there is one, or a device as torch names it: ``cpu``, ``cuda``, ``cuda:1``."""

    dtype: str = "fp32"
    """``fp32``, or ``bf16`` and ``fp16`` by autocast."""

    fast: bool = False
    """Whether layers compute with packed weights where that measures as faster, on the CPU in fp32; see
    `plm_core.packing.apply`. A model without such layers runs as it is. Features differ by rounding only (about 1e-6 of
    the largest, as for another number of threads), so fast and plain runs share the cache."""

    batch_size: int = 32
    """Number of images in a batch."""

    num_workers: int | None = None
    """Number of processes that decode images. None stands for a few if the model runs on an accelerator, and for 0 on a
    CPU, where the model uses all cores anyway."""

    ray: str | None = None
    """Address of a Ray cluster that does the work. ``local`` starts one on this machine."""

    cache: bool = True
    """Whether features are read from and written to the cache, ``$PLM_CACHE/parc``."""

    skip_unreadable: bool = False
    """Whether images that cannot be read are left out, with a warning that counts and names them. Otherwise they are an
    error before any model runs. With it, every image is decoded; without it, the headers of all are read."""

    def __post_init__(self) -> None:
        from parc.scores.pca import parse_pca

        if bad := [method for method in self.methods if not isinstance(method, str)]:
            raise InputError(f"methods has {bad[0]!r}; names of methods are allowed")
        object.__setattr__(self, "methods", tuple(dict.fromkeys(self.methods)))  # each method once
        if self.imagenet_csv is not None:  # absolute, because a Ray worker has another working directory
            object.__setattr__(self, "imagenet_csv", Path(self.imagenet_csv).absolute())
        self._check_methods()
        self._check_numbers()
        if self.pca is not None:
            parse_pca(self.pca)

    @property
    def score_methods(self) -> tuple[str, ...]:
        """The methods that score features."""
        return tuple(method for method in self.methods if method not in FACT_METHODS)

    @property
    def fact_methods(self) -> tuple[str, ...]:
        """The methods that need no images, only facts about the model."""
        return tuple(method for method in self.methods if method in FACT_METHODS)

    def _check_methods(self) -> None:
        from parc.catalog import methods, parse_method, unknown_method

        if not self.methods:
            raise InputError("methods is empty; at least one is needed")
        for text in self.score_methods:
            try:
                method = parse_method(text)
            except UnknownName:
                raise unknown_method("method", text.partition(":")[0], [*methods(), *FACT_METHODS]) from None
            if "reference_features" in method.scorer.needs and self.reference is None:
                raise InputError(f"method {text!r} needs reference, a model that was trained on the dataset")

    def _check_numbers(self) -> None:
        for name, least in {"budget": 2, "runs": 1, "bootstraps": 0, "batch_size": 1}.items():
            whole_number(getattr(self, name), name, least)
        if self.num_workers is not None:
            whole_number(self.num_workers, "num_workers")
