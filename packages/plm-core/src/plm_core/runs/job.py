"""One run of a recipe: what was asked for, and what came out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import weights
from plm_core.errors import InputError, NoWeights, PlmError
from plm_core.hookspecs import Input
from plm_core.hub import CONFIG_FILE, read_config
from plm_core.models import LIBRARIES, class_names, create_model
from plm_core.training.checks import RATE, refused, training_device
from plm_core.transforms import apply_all
from plm_core.utils.arguments import DEVICE
from plm_core.utils.text import as_tuple, first_line
from plm_core.weights.mapping import announce_rest


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a user asked a recipe to do. The function of a recipe gets one.

    Attributes:
        recipe: Name of the recipe.
        data: The source of data, of the kind that the recipe declares.
        out: Folder of the run.
        model: Name of the model for `create`.
        preset: Name of the preset.
        settings: The user's changes to the preset, as text.
        config: The preset with these changes.
        pretrained: Whether the training starts from the model's pretrained weights.
        weights: The weights to start from instead, as `plm_core.weights.read` takes them, or None.
        model_kwargs: Further keywords for `plm_core.create_model`. They become part of the model folder.
        transforms: Transforms that are applied while the model trains, as `plm_core.transforms.parse` reads them.
        seed: Random seed.
        skip_unreadable: Whether images or videos that cannot be read are left out. Otherwise they are an error, before
            the training starts; see `plm_core.datasets.readable`.
        options: Keywords for `plm_core.training.fit`: ``out``, ``resume``, ``seed``, ``precision`` ...
        facts: What became known since, see `plm_core.runs.begin`.
        notes: What the user should know, such as a changed batch size. It is logged when the training begins, so that
            an error before that is the only line.
    """

    recipe: str
    data: str
    out: Path
    model: str
    preset: str
    settings: Mapping[str, str] = field(default_factory=dict)
    config: Any
    pretrained: bool = True
    weights: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    seed: int = 0
    skip_unreadable: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def num_workers(self) -> int:
        """Processes that load data."""
        return int(self.options.get("num_workers", 0))

    def config_for(self, samples: int) -> Any:
        """Return the config with a batch size that the data can fill, unless the user has set one.

        Args:
            samples: Number of samples to train on.
        """
        recipe = self.config.recipe
        whole = samples * recipe.aug_repeats
        if "batch_size" in self.settings or recipe.batch_size <= whole or not samples:
            return self.config
        batch_size = 2 ** int(math.log2(samples)) * recipe.aug_repeats
        self.notes.append(f"batch_size follows the data, {samples} samples: {recipe.batch_size} -> {batch_size}")
        return replace(self.config, recipe=replace(recipe, batch_size=batch_size))

    def create(
        self,
        load: Callable[[nn.Module, str], None] | None = None,
        labels: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """Create the model to train, with its starting weights. What has no weights is initialised by the seed.

        Args:
            load: A function (model, source) that loads ``weights`` (default: `load_body`).
            labels: Names of the classes to train. A pretrained classifier of as many classes is kept only if they have
                these names in this order. Otherwise the classifier is a new one, and a note says so.
            **kwargs: Keywords for `plm_core.create_model`, such as ``num_classes`` and ``drop_path_rate``.

        Raises:
            InputError: The model does not take one of the keywords.
            WeightsError: The weights cannot be obtained or do not fit.
        """
        torch.manual_seed(self.seed)
        model = self._build(self.pretrained and self.weights is None, kwargs)
        if self.weights is not None:
            (load or load_body)(model, self.weights)
        elif self.pretrained and labels is not None:
            self._choose_classifier(model, labels, kwargs)
        return apply_all(model, self.transforms)

    def _choose_classifier(self, model: nn.Module, labels: Sequence[str], kwargs: Mapping[str, Any]) -> None:
        """Give a pretrained model a new classifier if its own is for as many classes with other names."""
        config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        if config.get("num_classes") != len(labels):  # timm has left the old classifier out
            return
        if list(labels) in class_names(model):
            self.notes.append(
                f"classifier: the pretrained one is kept, whose {len(labels)} classes have the same names"
            )
            return
        heads = classifier_prefixes(model)
        new = {key: value for key, value in self._build(False, kwargs).state_dict().items() if key.startswith(heads)}
        model.load_state_dict(new, strict=False)
        if new:
            self.notes.append(
                f"classifier: a new one, since the {len(labels)} classes of the pretrained one are others"
            )

    def check_classifier(self, model: nn.Module, spec: Input, num_classes: int) -> None:
        """Run a model on one empty input, and check that it returns logits, before any time is spent on its training.

        Raises:
            InputError: It cannot take the input, or returns something else.
        """
        try:
            with torch.no_grad():
                logits = model.eval()(torch.zeros(1, *spec.shape))
        except Exception as e:  # a model may refuse an input in any way
            raise InputError(f"model {self.model!r} cannot take its input {list(spec.shape)}: {first_line(e)}") from e
        if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
            got = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(
                f"model {self.model!r} returns {got}; recipe {self.recipe!r} trains classifiers, which return "
                f"[1, {num_classes}]"
            )

    def rebuild(self, state: Mapping[str, Tensor], **kwargs: Any) -> nn.Module:
        """Return a new model with trained weights in eval mode, without transforms, on the device of the training.

        The model that was trained may be sharded, wrapped or transformed.

        Args:
            state: The state dict, as in `plm_core.training.TrainResult`.
            **kwargs: The keywords of `create` that shape the model, such as ``num_classes``.
        """
        model = self._build(False, kwargs)
        model.load_state_dict(state)
        return model.eval().to(training_device(self.options.get("device", DEVICE)))

    def _build(self, pretrained: bool, kwargs: Mapping[str, Any]) -> nn.Module:
        library = self.model.partition(":")[0].lower()
        if library in LIBRARIES:
            why = f"recipe {self.recipe!r} trains models of timm and of plug-ins, whose folders rebuild them"
            raise InputError(f"model {self.model!r} is of {library}; {why}")
        keywords = {**kwargs, **self.model_kwargs}
        for name, value in keywords.items():
            if name.endswith("_rate") and not (isinstance(value, int | float) and 0 <= value < 1):
                raise refused(name, value, RATE[1])
        try:
            return create_model(self.model, pretrained=pretrained, **keywords)
        except NoWeights as e:
            why = "there are no pretrained weights of it; without them (--random) it trains from scratch"
            raise InputError(f"model {self.model!r}: {why}") from e
        except PlmError:
            raise
        except Exception as e:  # a constructor may refuse its keywords in any way
            if not (self.model_kwargs or isinstance(e, TypeError)):
                raise
            names = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
            raise InputError(f"model {self.model!r} cannot be created with {names}: {first_line(e)}") from e


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a recipe returns: the trained model, and what its folder should say about it.

    Attributes:
        model: The model, in eval mode and without transforms. It was created by name, so the folder rebuilds it.
        labels: Names of the classes; empty for a model without classes.
        scores: Scores on held-out data by name, such as ``{"val top-1 %": 83.1}``. They are plain numbers.
        history: `TrainResult.history`.
        data: The data in words, such as "1437 images of 10 classes".
        notes: Further lines of the model card, by title.
        extras: Further weights to write into the folder, by file name: models whose own keys are written.
        start: What the training started from, in words, if that is neither the weights of the model nor those that the
            job names.
        about: Further facts for the key ``plm`` of the folder's config.
        beside: A function that writes further files into the folder, such as those of a tokenizer.
    """

    model: nn.Module
    labels: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    data: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, nn.Module] = field(default_factory=dict)
    start: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    beside: Callable[[Path], None] | None = None


def load_body(model: nn.Module, source: str) -> None:
    """Load weights in any layout into a model, all but the classifier, which stays untrained.

    Args:
        model: Any model.
        source: See `plm_core.weights.read`.

    Raises:
        WeightsError: The source cannot be read, or does not fit the model.
    """
    mapped, report = weights.to_native(model, weights.read(source))
    announce_rest(report, type(model).__name__)
    heads = classifier_prefixes(model)
    own = {key: value for key, value in model.state_dict().items() if key.startswith(heads)}
    body = {key: value for key, value in mapped.items() if not key.startswith(heads)}
    weights.load(model, body | own)


def classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return what the names of the tensors of a model's classifier begin with, by timm's configuration."""
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    return tuple(f"{name}." for name in as_tuple(config.get("classifier")))


def architecture_of(model: str) -> str:
    """Return the name of a model's architecture: without source and tag, and that of a model folder from its config."""
    path = Path(model.removeprefix("local-dir:"))
    if (path / CONFIG_FILE).is_file():
        return str(read_config(path).get("architecture", ""))
    return model.rpartition("/")[2].rpartition(":")[2].partition("@")[0].partition(".")[0]
