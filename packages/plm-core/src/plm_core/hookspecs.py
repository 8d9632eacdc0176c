"""The contract between the hub and its plug-ins, on one screen.

A distribution takes part by one entry point in the group ``plm`` that names a module (by convention
``<import name>.plugin``) with functions marked ``@hookimpl`` and named as below. Each returns a list of
declarations: frozen dataclasses of plain data. Code is named by strings, ``"module:attribute"``, and imported at first
use. The plug-in module must import neither torch nor timm; ``plm doctor`` says when one does.

Write ``hookimpl = pluggy.HookimplMarker("plm")`` or import it from here. Hooks are called per plug-in, and an error in
one hook of one plug-in hides nothing of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pluggy

hookspec = pluggy.HookspecMarker("plm")
hookimpl = pluggy.HookimplMarker("plm")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a plug-in returns from a hook: plain data under a name."""

    hook: ClassVar[str]
    """The hook that returns declarations of this kind."""
    word: ClassVar[str]
    """What people call the kind."""
    name: str


@dataclass(frozen=True, kw_only=True)
class Input:
    """The input of a model in timm's terms: ``size`` is (channels, height, width), ``mean``/``std`` are per channel."""

    size: tuple[int, ...] = (3, 224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    frames: int | None = None
    """Frames of a clip, for a model that eats video [B, C, frames, H, W]; timm's configurations do not know them."""
    fixed: bool = False
    """True when an instance takes one size only, given by ``img_size=`` at creation."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width), or (channels, frames, height, width) for a video model."""
        channels, *sides = self.size
        return (channels, *([self.frames] if self.frames else []), *sides)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One set of weights of a model, reached as ``name.tag``."""

    tag: str
    license: str
    """SPDX identifier of the WEIGHTS; several are non-commercial."""
    repo: str | None = None
    """Hugging Face Hub id, ``org/name``; None when the file is shipped inside the distribution."""
    revision: str | None = None
    file: str = "model.safetensors"
    """File in the repo, or ``package:path`` of a shipped file."""
    layout: str | None = None
    """Name of the weight layout of the file; None for the model's own keys."""
    num_classes: int | None = None
    """Classes of the head in the file, when not the model's default; 0 for a file without a trained head."""
    untrained: tuple[str, ...] = ()
    """Prefixes of the model's own keys whose values in the file mean nothing and are not loaded."""
    input: Input | None = None
    labels: tuple[str, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Published or measured scores, as ``{"imagenet-1k top-1 %": 82.8}``."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.repo is None and ":" not in self.file:
            raise ValueError(f"weights {self.tag!r} name neither a repo nor a shipped file as 'package:path'")


@dataclass(frozen=True, kw_only=True)
class Micro:
    """A model trained by us on embedded data and shipped as package data."""

    recipe: str
    """``"module:function"`` called as ``function(out: Path, seed: int) -> Mapping[str, float]``; ``plm retrain``."""
    evaluate: str
    """``"module:function"`` called as ``function(model) -> Mapping[str, float]`` on held-out data."""


@dataclass(frozen=True, kw_only=True)
class Model(Declaration):
    """A model that ``timm.create_model(name)`` builds."""

    hook = "plm_models"
    word = "model"

    family: str
    builder: str
    """``"module:callable"``, often a class: called with the keywords of ``config`` and of ``create_model``, returns an
    nn.Module. Loading, ``features_only`` and timm's configuration are the hub's business."""
    params: int
    """Number of parameters with the default head; a test builds the model on the meta device and compares."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keywords for the builder; those of ``create_model`` override them."""
    task: str = "image-classification"
    input: Input = Input()
    num_classes: int = 1000
    classifier: str | tuple[str, ...] | None = "head.fc"
    first_conv: str | tuple[str, ...] | None = "patch_embed.proj"
    out_indices: tuple[int, ...] = (-1,)
    """Feature maps that ``features_only=True`` gives by default, in terms of ``forward_intermediates``."""
    pretrained: tuple[Pretrained, ...] = ()
    """The first entry is the default tag."""
    needs: tuple[str, ...] = ()
    """Other distributions or extras, as ``("plm-core[lm]", "pe-encoder")``."""
    micro: Micro | None = None
    license: str = ""
    """SPDX identifier of the CODE."""
    paper: str = ""


@dataclass(frozen=True, kw_only=True)
class WeightLayout(Declaration):
    """How another code base names and shapes the tensors of a model class."""

    hook = "plm_weight_layouts"
    word = "weight layout"

    models: tuple[str, ...]
    """Classes it applies to (subclasses too), as ``"module:ClassName"``."""
    rules: str | None = None
    """``"module:function"`` called with the model, returns a sequence of ``plm_core.layouts.Rule``, or raises
    NotSupported for a variant that the other code base lacks; None when the layout's names are the model's own."""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class BlockAdapter(Declaration):
    """How transforms reach the blocks, attention, special tokens and positions of a model class."""

    hook = "plm_block_adapters"
    word = "block adapter"

    models: tuple[str, ...]
    view: str
    """``"module:function"`` called with the model, returns a ``plm_core.blocks.ModelView``."""
    example: tuple[str, Mapping[str, Any]]
    """A small model of the family, on which pieces are tried: a name and keywords for ``create_model``, or
    ``"module:function"`` and keywords for the function (see `plm_core.blocks.examples`)."""
    input_size: tuple[int, ...] | None = None
    """What the example eats, without the batch; None for what its ``pretrained_cfg`` says."""


@dataclass(frozen=True, kw_only=True)
class Transform(Declaration):
    """A change of a model in place that can be undone, such as Token Merging."""

    hook = "plm_transforms"
    word = "transform"

    apply: str
    """``"module:function"``: ``function(model, **options) -> model``; raises NotSupported with the reason."""
    remove: str
    """``"module:function"``: ``function(model) -> model``; afterwards the model answers as before."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """Options to try it with, as ``plm matrix`` does."""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Merger(Declaration):
    """A way to make one model of several: ``function(models, **options) -> nn.Module``."""

    hook = "plm_mergers"
    word = "merger"

    merge: str
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Scorer(Declaration):
    """A transferability score, higher is better: ``function(features, labels, **options) -> float``.

    ``features`` is a numpy array [N, D], ``labels`` an integer one [N], or of another kind in ``targets``.
    """

    hook = "plm_scorers"
    word = "scorer"

    score: str
    help: str = ""
    needs: tuple[str, ...] = ()
    """What it takes besides, as keywords: ``probs`` (the model's probabilities of its own classes, [N, S]),
    ``reference_features`` (of a model that was trained on the data, [N, D']), ``num_classes`` (an integer)."""
    targets: tuple[str, ...] = ("classes",)
    """Kinds of labels it can do: ``classes`` [N], ``multilabel`` (0 and 1, [N, C]), ``regression`` ([N], [N, T])."""


@dataclass(frozen=True, kw_only=True)
class Command(Declaration):
    """A sub-command of ``plm``; ``implementation`` is a function with typer annotations or a ``typer.Typer``."""

    hook = "plm_commands"
    word = "command"

    help: str
    implementation: str


@dataclass(frozen=True, kw_only=True)
class TourStop(Declaration):
    """One stop of ``plm tour``: ``function(tour: plm_core.tools.tour.Tour) -> None`` adds to the report."""

    hook = "plm_tour_stops"
    word = "tour stop"

    title: str
    run: str
    order: int = 100


KINDS: tuple[type[Declaration], ...] = (
    Model, WeightLayout, BlockAdapter, Transform, Merger, Scorer, Command, TourStop
)  # fmt: skip
"""The kinds of declaration, in the order in which plug-ins are asked for them."""


@hookspec
def plm_models() -> Sequence[Model]:  # type: ignore[empty-body]
    """Models for timm's registry."""


@hookspec
def plm_weight_layouts() -> Sequence[WeightLayout]:  # type: ignore[empty-body]
    """Weight layouts, usable in both directions."""


@hookspec
def plm_block_adapters() -> Sequence[BlockAdapter]:  # type: ignore[empty-body]
    """Block adapters of the model families that the plug-in owns."""


@hookspec
def plm_transforms() -> Sequence[Transform]:  # type: ignore[empty-body]
    """Transforms for ``plm_core.apply``."""


@hookspec
def plm_mergers() -> Sequence[Merger]:  # type: ignore[empty-body]
    """Mergers of several models."""


@hookspec
def plm_scorers() -> Sequence[Scorer]:  # type: ignore[empty-body]
    """Transferability scores."""


@hookspec
def plm_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """Sub-commands of ``plm``."""


@hookspec
def plm_tour_stops() -> Sequence[TourStop]:  # type: ignore[empty-body]
    """Stops of ``plm tour``."""
