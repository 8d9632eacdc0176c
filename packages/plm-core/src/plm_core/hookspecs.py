"""The contract between plm-core and its plug-ins, on one screen.

A distribution takes part through one entry point in the group ``plm``. The entry point names a module (by convention
``<import name>.plugin``) with functions that are marked ``@hookimpl`` and named as below. Each function returns a list
of declarations: frozen dataclasses of plain data. Code is named by strings, ``"module:attribute"``, and imported at
first use. The plug-in module must import neither torch nor timm; ``plm doctor`` reports one that does.

Write ``hookimpl = pluggy.HookimplMarker("plm")`` or import it from here. Hooks are called for each plug-in separately,
so an error in one hook of one plug-in hides nothing that the others declare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pluggy

from plm_core.fields import Fields

hookspec = pluggy.HookspecMarker("plm")
hookimpl = pluggy.HookimplMarker("plm")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images per channel (R, G, B), for values between 0 and 1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of the same images."""
VIDEO_MEAN = (0.45, 0.45, 0.45)
"""Mean per channel by which most models of Kinetics normalise their clips."""
VIDEO_STD = (0.225, 0.225, 0.225)
"""Standard deviation that goes with it."""

TASKS = (
    "image-classification", "video-classification", "audio-classification", "zero-shot-image-classification",
    "image-feature-extraction", "feature-extraction", "object-detection", "image-segmentation", "mask-generation",
    "depth-estimation", "keypoint-detection", "image-to-text", "image-text-to-text", "text-generation",
    "image-to-image", "text-to-image", "unconditional-image-generation", "other"
)  # fmt: skip
"""The tasks that a model may declare, as the Hugging Face Hub calls them."""


@dataclass(frozen=True, kw_only=True)
class Declaration(Fields):
    """The base of everything that a plug-in returns from a hook: plain data under a name.

    Attributes:
        hook: The hook that returns declarations of this kind.
        word: The kind's name in messages, such as ``model``.
        name: Letters, digits, ``_`` and ``-``.
    """

    hook: ClassVar[str]
    word: ClassVar[str]
    name: str


@dataclass(frozen=True, kw_only=True)
class Input(Fields):
    """The input of a model in timm's terms.

    Attributes:
        size: (channels, height, width).
        mean: Mean of each channel by which images are normalized, for values between 0 and 1.
        std: Standard deviation of each channel, above 0.
        interpolation: Pillow's filter for resizing: ``nearest``, ``bilinear``, ``bicubic``, ``box``, ``hamming`` or
            ``lanczos``.
        crop_pct: Share of the resized image that the crop keeps, 0.1 to 2: 0.875 resizes to 256 pixels for a crop of
            224. Above 1 the image is smaller than the crop, with a border around it.
        crop_mode: ``center``, ``squash``, ``border`` or ``corner``, as in timm.
        frames: Frames of a clip, for a model that takes video [B, C, frames, H, W]. None for images.
        stride: Step from one frame of a clip to the next that the model was trained with: 4 takes every fourth frame.
        fixed: True when a model takes only the size that it was created with, given by ``img_size=``.
    """

    size: tuple[int, ...] = (3, 224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    frames: int | None = None  # timm's configurations have no such field
    stride: int = 1
    fixed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (channels, height, width), or (channels, frames, height, width) for a video model."""
        channels, *sides = self.size
        return (channels, *([self.frames] if self.frames else []), *sides)


@dataclass(frozen=True, kw_only=True)
class Pretrained(Fields):
    """One set of weights of a model, created as ``name.tag``.

    Attributes:
        tag: The name of the set.
        license: SPDX identifier of the licence of the WEIGHTS. Several are non-commercial. ``other`` or ``unknown``
            where there is no identifier.
        repo: Hugging Face Hub id, ``org/name``. None when the file is shipped inside the distribution.
        revision: Branch, tag or commit of the repository. None for the default branch.
        file: File in the repository. ``model.safetensors.index.json`` stands for the files that such an index names, or
            for the one file of a repository without an index. Or ``package:path`` of a shipped file, such as
            ``acme_models:weights/tiny.safetensors``. Beside a shipped file lies its model card, of the same name with
            the ending ``.md``. It begins with the front matter of the Hub's cards, which names the license::

                ---
                license: mit
                ---

        layout: Name of the weight layout of the file. None when the file has the model's own keys.
        num_classes: Classes of the head in the file, if not the model's default. 0 for a file without a trained head.
        untrained: Prefixes of the model's own keys whose values in the file are untrained. They are not loaded.
        input: The input that the weights were trained for, if not the model's default.
        labels: Names of the classes, in their order.
        metrics: Published or measured scores, such as ``{"imagenet-1k top-1 %": 82.8}``.
        note: A remark for ``plm info``.
    """

    tag: str
    license: str
    repo: str | None = None
    revision: str | None = None
    file: str = "model.safetensors"
    layout: str | None = None
    num_classes: int | None = None
    untrained: tuple[str, ...] = ()
    input: Input | None = None
    labels: tuple[str, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Micro(Fields):
    """A model that was trained on embedded data and is shipped as package data.

    Attributes:
        recipe: ``"module:function"`` that ``plm retrain`` calls:
            ``function(out: Path, seed: int) -> Mapping[str, float]``.
        evaluate: ``"module:function"`` for the scores on held-out data: ``function(model) -> Mapping[str, float]``.
    """

    recipe: str
    evaluate: str


@dataclass(frozen=True, kw_only=True)
class Model(Declaration):
    """A model that ``timm.create_model(name)`` builds.

    Attributes:
        name: The name for ``create_model``. One that is timm's own stays timm's.
        family: The name of its architecture, by which ``plm list`` groups.
        builder: ``"module:callable"``, often a class. It is called with the keywords of ``config`` and with those
            given to ``create_model``, such as ``num_classes`` and ``in_chans``, and returns an nn.Module. plm-core adds
            the loading of weights, ``features_only`` and timm's configuration.
        params: Number of parameters with the default head. `check_model` builds the model and compares.
        config: Keywords for the builder. Those of ``create_model`` override them.
        task: One of `TASKS`.
        input: The input of the default weights.
        num_classes: Classes of the default head.
        classifier: The layers, by dotted path, whose outputs are those of the classes. They stay untrained if weights
            are loaded into a model with another number of classes. Layers of a detector may have as many outputs for
            the background as for a class. None if there is no classifier.
        first_conv: The layers that timm adapts to another number of channels, or None.
        out_indices: Feature maps that ``features_only=True`` returns by default, as indices for
            ``forward_intermediates``.
        pretrained: The sets of weights. The first entry is the default tag.
        needs: Other distributions or extras that the model needs, such as ``("plm-core[lm]", "pe-encoder")``.
        micro: How it was trained, for a model that is shipped with its weights and that ``plm retrain`` trains.
        license: SPDX identifier of the licence of the CODE. Empty where it is not stated.
        paper: Address of the paper.
    """

    hook = "plm_models"
    word = "model"

    family: str
    builder: str
    params: int
    config: Mapping[str, Any] = field(default_factory=dict)
    task: str = "image-classification"
    input: Input = Input()
    num_classes: int = 1000
    classifier: str | tuple[str, ...] | None = "head.fc"
    first_conv: str | tuple[str, ...] | None = "patch_embed.proj"
    out_indices: tuple[int, ...] = (-1,)
    pretrained: tuple[Pretrained, ...] = ()
    needs: tuple[str, ...] = ()
    micro: Micro | None = None
    license: str = ""
    paper: str = ""


@dataclass(frozen=True, kw_only=True)
class WeightLayout(Declaration):
    """The names and shapes that another code base gives to the tensors of a model class.

    Attributes:
        name: The name for ``plm convert --to`` and ``weights.load(layout=)``. Layouts of several classes may share it.
        models: The classes of the models that it applies to, with their subclasses, as ``"module:ClassName"``. They are
            the classes of the built models, not the names of declared models.
        rules: ``"module:function"``, a function of the model: it is called with one, and returns a sequence of
            `plm_core.layouts.Rule` that fits its sizes. It raises NotSupported for a variant that the other code base
            lacks. None when the layout's names are the model's.
        part: The prefix of the model's tensors in files of a larger model, such as ``image_encoder.``. Such a file
            loads. What has other names is left out, and named in a logged line. "" when a file holds nothing but the
            model.
        help: The code base in a few words.
    """

    hook = "plm_weight_layouts"
    word = "weight layout"

    models: tuple[str, ...]
    rules: str | None = None
    part: str = ""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class BlockAdapter(Declaration):
    """The access of transforms to the blocks, attention, special tokens and positions of a model class.

    Attributes:
        name: The name of the family in ``plm matrix``.
        models: The classes of the models that it serves, with their subclasses, as ``"module:ClassName"``.
        view: ``"module:function"`` that is called with the model and returns a `plm_core.blocks.ModelView`. It raises
            NotSupported with the reason for a model that it cannot show.
        example: A small model of the family to try transforms, mergers and scorers on: a name and keywords for
            ``create_model``, or ``"module:function"`` and keywords for the function (see `plm_core.blocks.examples`).
        input_size: Shape of the example's input without the batch. None for the size in its ``pretrained_cfg``.
        embed: ``"module:function"`` that is called with a model of the family and a batch and returns the pooled
            embedding, [B, D]. None for a model with timm's ``forward_features`` and ``forward_head``. It needs no view
            of the blocks.
    """

    hook = "plm_block_adapters"
    word = "block adapter"

    models: tuple[str, ...]
    view: str
    example: tuple[str, Mapping[str, Any]]
    input_size: tuple[int, ...] | None = None
    embed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Transform(Declaration):
    """A change of a model in place that can be undone, such as Token Merging.

    Attributes:
        name: The name for ``plm_core.apply`` and ``--transform``.
        apply: ``"module:function"``: ``function(model, **options) -> model``. It raises NotSupported with the reason.
        remove: ``"module:function"``: ``function(model) -> model``. Afterwards the outputs are those of before.
        example: Options with which ``plm matrix`` and the tests try the transform.
        help: The transform in a few words.
    """

    hook = "plm_transforms"
    word = "transform"

    apply: str
    remove: str
    example: Mapping[str, Any] = field(default_factory=dict)
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Merger(Declaration):
    """A way to merge several models into one.

    Attributes:
        name: The name of the way.
        merge: ``"module:function"``: ``function(models, batches, **options) -> nn.Module``. ``batches`` is an iterable
            of inputs without labels, which may be empty for a merger that needs no data.
        help: The merger in a few words.
    """

    hook = "plm_mergers"
    word = "merger"

    merge: str
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Scorer(Declaration):
    """A transferability score. Higher is better.

    Attributes:
        name: The name for ``--methods``.
        score: ``"module:function"``: ``function(features, labels, **options) -> float``. ``features`` is a numpy array
            [N, D]. ``labels`` is an integer array [N], or of another kind listed in ``targets``.
        help: The score in a few words.
        needs: Further inputs, passed as keywords: ``probs`` (the model's probabilities of its own classes, [N, S]),
            ``reference_features`` (features of a model that was trained on the data, [N, D']), ``num_classes`` (an
            integer).
        targets: Kinds of labels it takes: ``classes`` [N], ``multilabel`` (0 and 1, [N, C]), ``regression`` ([N],
            [N, T]).
    """

    hook = "plm_scorers"
    word = "scorer"

    score: str
    help: str = ""
    needs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("classes",)


@dataclass(frozen=True, kw_only=True)
class Training(Declaration):
    """A recipe that ``plm train NAME DATA --out FOLDER`` runs. It leaves a model folder.

    Attributes:
        name: The name of the recipe.
        help: The recipe in a few words.
        data: The kind of data that it takes: a key of `plm_core.datasets.KINDS`.
        train: ``"module:function"``: ``function(job) -> Trained | None``, see `Job` and `Trained` of `plm_core.runs`.
            It is None in a process that is not the main one. plm-core checks the arguments and writes the folder.
        configs: ``"module:attribute"``: a mapping from the names of presets to configs. A config is a frozen dataclass.
            Its fields, and those of its field ``recipe``, are what ``--set`` changes.
        presets: Patterns of model names, such as ``hiera_image_base_*``, and their presets. The first pattern that
            matches counts. A model that matches none needs ``--preset``.
        model: The model that is trained if the user names none. None if the user must name one.
        micro: A small model, for trials and tests. Its preset trains in minutes on a CPU.
        options: Options of ``plm train`` that not every recipe has and this one has: ``pretrained``, ``weights``,
            ``transforms``.
    """

    hook = "plm_trainings"
    word = "recipe"

    help: str
    data: str
    train: str
    configs: str
    presets: Mapping[str, str] = field(default_factory=lambda: {"*": "default"})
    model: str | None = None
    micro: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Command(Declaration):
    """A sub-command of ``plm``.

    Attributes:
        name: The word on the command line.
        help: The line in ``plm --help``.
        implementation: ``"module:attribute"``: a function with typer annotations or a ``typer.Typer``.
    """

    hook = "plm_commands"
    word = "command"

    help: str
    implementation: str


@dataclass(frozen=True, kw_only=True)
class TourStop(Declaration):
    """One stop of ``plm tour``.

    Attributes:
        name: The name of the stop.
        title: Its heading.
        run: ``"module:function"``: ``function(tour: plm_core.tools.tour.Tour) -> None`` adds to the report.
        order: Its place among the stops, which come in ascending order.
    """

    hook = "plm_tour_stops"
    word = "tour stop"

    title: str
    run: str
    order: int = 100


KINDS: tuple[type[Declaration], ...] = (
    Model, WeightLayout, BlockAdapter, Transform, Merger, Scorer, Training, Command, TourStop
)  # fmt: skip
"""The kinds of declarations, in the order in which a plug-in's hooks are called."""


@hookspec
def plm_models() -> Sequence[Model]:  # type: ignore[empty-body]
    """Return models for timm's registry."""


@hookspec
def plm_weight_layouts() -> Sequence[WeightLayout]:  # type: ignore[empty-body]
    """Return weight layouts, which work in both directions."""


@hookspec
def plm_block_adapters() -> Sequence[BlockAdapter]:  # type: ignore[empty-body]
    """Return block adapters for the model families that the plug-in owns."""


@hookspec
def plm_transforms() -> Sequence[Transform]:  # type: ignore[empty-body]
    """Return transforms for ``plm_core.apply``."""


@hookspec
def plm_mergers() -> Sequence[Merger]:  # type: ignore[empty-body]
    """Return mergers of several models."""


@hookspec
def plm_scorers() -> Sequence[Scorer]:  # type: ignore[empty-body]
    """Return transferability scores."""


@hookspec
def plm_trainings() -> Sequence[Training]:  # type: ignore[empty-body]
    """Return recipes for ``plm train``."""


@hookspec
def plm_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """Return sub-commands of ``plm``."""


@hookspec
def plm_tour_stops() -> Sequence[TourStop]:  # type: ignore[empty-body]
    """Return stops of ``plm tour``."""
