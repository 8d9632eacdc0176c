"""Models of Hugging Face transformers by name: a repository of the Hub, or a folder.

Only safetensors are read, and no code of a repository is run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import InputError, NotSupported, PlmError, WeightsError
from plm_core.hub import WEIGHTS_FILE, HubFile, fetch_folder, one_line
from plm_core.utils.files import existing_folder
from plm_core.utils.images import Channels
from plm_core.utils.references import class_paths
from plm_core.utils.requirements import check_needs
from plm_core.utils.text import first_line, shown

_log = logging.getLogger("plm_core")

TASKS = {
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForVideoClassification": "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForAudioClassification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
}
"""The class that creates the classifiers of each kind of input, and transformers' table of the classifiers."""
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
SETTINGS = ("config.json", "*preprocessor_config.json", "processor_config.json")
WEIGHTS = (WEIGHTS_FILE, INDEX_FILE, "model-*.safetensors")
PROCESSORS = {"audio": "AutoFeatureExtractor", "video": "AutoVideoProcessor", "image": "AutoImageProcessor"}


def create(text: str, pretrained: bool = False, num_classes: int | None = None, **kwargs: Any) -> nn.Module:
    """Create a model of transformers: a classifier where its configuration names one, otherwise the bare model.

    Args:
        text: ``org/name[@revision]`` of the Hub, or the path of a folder that ``save_pretrained`` wrote.
        pretrained: Load the weights, in float32 unless ``dtype`` says otherwise. Otherwise only the configuration is
            needed.
        num_classes: Replace the classifier by one for this number of classes, or give a bare model one; 0 for none.
        **kwargs: Entries of the configuration, and keywords of ``from_pretrained``.

    Raises:
        MissingDependency: transformers is not installed.
        InputError: ``text`` is neither a repository nor a folder, ``num_classes`` is negative, or a keyword is not
            accepted.
        NotSupported: The family has no classifier, but ``num_classes`` asks for one.
        WeightsError: The model cannot be obtained, has no safetensors, or does not fit its configuration.
    """
    name = f"transformers:{text}"
    check_needs(f"model {name!r}", ["transformers>=5.0"])
    if num_classes is not None and num_classes < 0:
        raise InputError(f"num_classes is {num_classes}; 0 or more is allowed")
    folder = _folder(text, (*SETTINGS, *WEIGHTS) if pretrained else SETTINGS)
    if pretrained and not any((folder / file).is_file() for file in (WEIGHTS_FILE, INDEX_FILE)):
        raise WeightsError(f"cannot get {name}: {folder} has no {WEIGHTS_FILE}, and pickled weights are not read")
    with _errors(name), _quiet():
        from transformers import AutoConfig

        dtype = kwargs.pop("dtype", torch.float32)  # a checkpoint may be in float16, which few CPUs compute with
        config, kwargs = AutoConfig.from_pretrained(
            folder, return_unused_kwargs=True, trust_remote_code=False, **kwargs
        )
        loader = _loader(name, config, num_classes)
        if num_classes is not None:
            config.num_labels = num_classes
        if not pretrained:
            model: nn.Module = loader.from_config(config, dtype=dtype, **kwargs)
            return model
        model, report = loader.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported, and checked here
            output_loading_info=True,
            **kwargs,
        )
    _check(name, model, report, new_head=bool(num_classes))
    return model.train()


def preprocessing(model: Any) -> Callable[[Any], Tensor]:
    """Return the preprocessing that transformers has for a model: a function from one input to one float tensor.

    - An image model takes a PIL image and returns [C, H, W].
    - A video model takes a clip: a list of PIL images, or an array or tensor uint8, [T, H, W, 3] or [T, 3, H, W]. It
      returns [T, C, H, W].
    - An audio model takes a waveform, a float array [samples] at the rate of the model, and returns the input of the
      model, such as a spectrogram [frames, bins].

    Raises:
        InputError: The model does not know where it comes from, or takes a number of channels that no image has.
        WeightsError: The preprocessing cannot be obtained.
    """
    text = model.name_or_path
    if not text:
        raise InputError(
            f"the preprocessing of this {type(model).__name__} is not known: create it with "
            "plm_core.create_model('transformers:...')"
        )
    revision = getattr(model.config, "_commit_hash", None)
    folder = _folder(f"{text}@{revision}" if revision and not Path(text).is_dir() else text, SETTINGS)
    kind, what = modality(model), f"the preprocessing of transformers:{text}"
    if not any(folder.glob("*processor_config.json")):  # transformers says it in five lines
        raise WeightsError(f"cannot get {what}: {folder} has no preprocessor_config.json")
    with _errors(what), _quiet():
        import transformers

        processor = getattr(transformers, PROCESSORS[kind]).from_pretrained(folder, trust_remote_code=False)
    vision = getattr(model.config, "vision_config", model.config)
    return Preprocessing(processor, kind, Channels(getattr(vision, "num_channels", 3)) if kind == "image" else None)


class Preprocessing:
    """A processor of transformers as a function from one input to one tensor."""

    def __init__(self, processor: Any, kind: str, convert: Channels | None) -> None:
        self.processor = processor
        self.options = {"sampling_rate": processor.sampling_rate} if kind == "audio" else {}
        self.convert = convert

    def __call__(self, x: Any) -> Tensor:
        """Preprocess one input, see `preprocessing`."""
        x = x if self.convert is None else self.convert(x)
        values = self.processor(x, return_tensors="pt", **self.options)
        return next(iter(values.values()))[0]

    def __repr__(self) -> str:
        return f"Preprocessing({self.convert}, {self.processor})"


def task(model: object) -> str | None:
    """Return the task of a classifier of transformers, in the words of the Hugging Face Hub; None for another model."""
    kinds = ("Image", "Video", "Audio")
    kind = next((kind for kind in kinds if type(model).__name__.endswith(f"For{kind}Classification")), None)
    return kind and f"{kind.lower()}-classification"


def modality(model: Any) -> str:
    """Return what a model of transformers takes, as its library says: ``image``, ``video`` or ``audio``."""
    return next((kind for kind in PROCESSORS if kind in model.input_modalities), "image")


def is_of_transformers(model: object) -> bool:
    """Return whether a model is one of transformers. This does not import the library."""
    return "transformers.modeling_utils:PreTrainedModel" in class_paths(model)


def _folder(text: str, patterns: tuple[str, ...]) -> Path:
    """Return a folder as it is, or the files of a repository of the Hub that match the patterns, downloaded."""
    if text and (known := existing_folder(text)):
        return known
    if (repo := HubFile.parse(text)) is None:
        raise InputError(
            f"model 'transformers:{shown(text)}' is neither a folder nor of the form 'org/name[@revision]'"
        )
    folder = fetch_folder(repo, patterns)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"cannot get transformers:{text}: it has no config.json")
    return folder


def _loader(name: str, config: Any, num_classes: int | None) -> Any:
    """Return the Auto class for the architecture that a configuration names, or one that gives it a classifier."""
    import transformers
    from transformers.models.auto import modeling_auto

    named = (getattr(config, "architectures", None) or [""])[0]
    tables: dict[str, Mapping[str, Any]] = {task: getattr(modeling_auto, table) for task, table in TASKS.items()}
    for task, table in tables.items():
        if any(named in ((classes,) if isinstance(classes, str) else classes) for classes in table.values()):
            return getattr(transformers, task)
    if not num_classes:
        return transformers.AutoModel
    for task, table in tables.items():
        if config.model_type in table:
            return getattr(transformers, task)
    raise NotSupported(f"{name} ({config.model_type}) has no classifier in transformers, so num_classes has no meaning")


def _check(name: str, model: nn.Module, report: Mapping[str, Any], new_head: bool) -> None:
    """Check that all weights were loaded, except for a classifier that is to be new and for a pooler.

    Many checkpoints have no pooler. No embedding needs a trained one.
    """
    untrained = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})

    def allowed(key: str) -> bool:
        part = getattr(model, key.partition(".")[0], None)
        in_head = new_head and not is_of_transformers(part)
        return in_head or "pooler" in key.split(".")

    wrong = [key for key in untrained if not allowed(key)]
    if wrong or report["error_msgs"]:
        listed = ", ".join([*wrong[:5], *(["..."] if len(wrong) > 5 else []), *report["error_msgs"][:1]])
        raise WeightsError(
            f"weights of {name} do not fit {type(model).__name__}; missing or of another shape: {listed}"
        )
    if untrained and not new_head:
        _log.warning("weights of %s have no %s: left random", name, ", ".join(untrained))


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turn the errors of transformers into one line. They have many lines of advice."""
    try:
        with one_line(f"cannot get {name}"):
            yield
    except PlmError:
        raise
    except TypeError as e:
        raise InputError(f"{name} cannot be created: {first_line(e)}") from e
    except (ValueError, RuntimeError, KeyError) as e:
        raise WeightsError(f"cannot get {name}: {first_line(e)}") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing bars and reports. What matters of them becomes an error or a line of the log."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            with warnings.catch_warnings():  # the user may have switched off the bars of huggingface_hub
                warnings.simplefilter("ignore")
                transformers_logging.enable_progress_bar()
