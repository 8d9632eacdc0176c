"""Models by name: timm's functions, with the models of every plug-in and with errors that suggest similar names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plm_core import timm_bridge
from plm_core.errors import InputError
from plm_core.hookspecs import Input, Model
from plm_core.registry import registry
from plm_core.sources import timm, torchvision, transformers
from plm_core.utils.images import Channels

LIBRARIES = {"torchvision": torchvision.create, "transformers": transformers.create}
SOURCES = ("hf-hub", "hf_hub", "local-dir", *LIBRARIES)  # hf_hub is timm's older spelling


def create_model(name: str | Path, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a model of timm or of any plug-in, with ``timm.create_model``, or one of another library.

    Args:
        name: ``name``, ``name.tag``, ``hf-hub:org/name[@revision]`` (or just ``org/name``) or ``local-dir:path`` (or
            just the path of a model folder) for a model with timm's interface. ``torchvision:resnet50`` or
            ``torchvision:resnet50.IMAGENET1K_V1`` for a model of torchvision. ``transformers:org/name[@revision]`` or
            ``transformers:path`` for a model of transformers.
        pretrained: Load weights. If the name has no tag, they are those of the default tag.
        **kwargs: Keywords of timm: ``num_classes`` (0 for no classifier), ``in_chans``, ``img_size`` (of a network that
            takes any size, the size of its preprocessing), ``features_only``... The other libraries take
            ``num_classes`` too, and keywords of their own.

    Raises:
        UnknownName: There is no such model or tag. The message gives similar names and the distribution that would
            provide the model.
        DuplicateName: Two plug-ins declare the name.
        PluginError: timm cannot register what the plug-in declares.
        WeightsError: The weights or the config.json cannot be obtained, cannot be used or do not fit.
        InputError: The name has an unknown source, or the model cannot be created with the keywords.
        NotSupported: ``num_classes`` has no meaning for the model.
        MissingDependency: The library of the model is not installed.

    Example:
        >>> import plm_core
        >>> plm_core.create_model("hiera_micro_digits", pretrained=True).num_classes
        10
        >>> plm_core.create_model("test_vit", num_classes=3).num_classes  # a model of timm
        3
    """
    if isinstance(name, Path):
        name = f"local-dir:{name}"
    if not isinstance(name, str):
        raise InputError(f"name is {name!r}; the name of a model or the path of a folder is expected")
    source, colon, rest = name.partition(":")
    if colon and (create := LIBRARIES.get(source.lower())) is not None:
        return create(rest, pretrained, **kwargs)
    return timm.create(name, pretrained, **kwargs)


def list_models(filter: str | Sequence[str] = "", pretrained: bool = False, **kwargs: Any) -> list[str]:
    """List the names of the models of timm and of every plug-in, with ``timm.list_models``.

    Args:
        filter: One or several patterns with timm's wildcards. Empty for all models.
        pretrained: List only models with weights, as ``name.tag``.
        **kwargs: Keywords of timm: ``module``, ``exclude_filters``, ``include_tags``...

    Example:
        >>> import plm_core
        >>> plm_core.list_models("*micro_dig*")
        ['hiera_micro_digits']
        >>> plm_core.list_models("*micro_dig*", pretrained=True)
        ['hiera_micro_digits.sklearn_digits']
    """
    import timm

    timm_bridge.register()
    return list(timm.list_models(filter, pretrained=pretrained, **kwargs))


def transform_for(model: nn.Module) -> Any:
    """Return the evaluation preprocessing of a model: a function from PIL image to float tensor [C, H, W].

    It first converts the image to the model's number of input channels (1: greyscale, 3: RGB). For models of
    torchvision and transformers it is the library's own; `plm_core.sources` says what those of clips and sounds take.

    Args:
        model: Any model that `create_model` made, or another model with timm's ``pretrained_cfg`` or of transformers.

    Raises:
        InputError: The preprocessing of the model is not known, or the model takes neither 1 nor 3 channels.
        WeightsError: The preprocessing of a model of transformers cannot be obtained.

    Example:
        >>> import plm_core
        >>> from PIL import Image
        >>> preprocess = plm_core.transform_for(plm_core.create_model("hiera_micro_digits"))
        >>> preprocess(Image.new("L", (8, 8))).shape
        torch.Size([3, 32, 32])
    """
    if transformers.is_of_transformers(model):
        return transformers.preprocessing(model)
    if hasattr(model, "plm_origin") or torchvision.is_classifier_of_torchvision(model):
        return torchvision.preprocessing(model)
    return _timm_transform(model)


def _timm_transform(model: nn.Module) -> Any:
    import timm.data
    from torchvision.transforms import Compose

    config = _data_config(model)
    deep = config.get("crop_mode") != "border"  # torchvision pads tensors with one number only, and timm gives three
    return Compose([Channels(config["input_size"][0], deep), timm.data.create_transform(**config, is_training=False)])


def input_of(model: Any) -> Input:
    """Return the input of a model as it was created: size, frames of a clip, mean, standard deviation, and the crop.

    Args:
        model: Any model with timm's ``pretrained_cfg``.

    Raises:
        InputError: The model has no ``pretrained_cfg``.

    Example:
        >>> import plm_core
        >>> plm_core.models.input_of(plm_core.create_model("hiera_micro_motions")).shape
        (3, 8, 32, 32)
    """
    config = _data_config(model)
    declared = registry().all(Model).get(model.pretrained_cfg["architecture"])
    return Input(
        size=tuple(config["input_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        frames=declared.declaration.input.frames if declared else None,
        stride=declared.declaration.input.stride if declared else 1,
    )


def _data_config(model: Any) -> dict[str, Any]:
    """Return timm's data configuration of a model, for the channels and the size that it was created with."""
    import timm.data

    if not getattr(model, "pretrained_cfg", None):
        raise InputError(f"model {type(model).__name__} has no pretrained_cfg: create it with plm_core.create_model")
    # timm's newer function reads the in_chans and img_size of the model itself, the older one only its configuration
    resolve_config = getattr(timm.data, "resolve_input_data_config", timm.data.resolve_model_data_config)
    config: dict[str, Any] = resolve_config(model)
    channels, *size = config["input_size"]
    # a model that takes any size may have been created for another size than its weights; neither function reads that
    img_size = getattr(model, "_model_args", {}).get("img_size", size)
    return config | {"input_size": (channels, *((img_size, img_size) if isinstance(img_size, int) else img_size))}


def class_names(model: nn.Module) -> list[list[str]]:
    """Return the lists of names that the classes of a model's weights have; none if they are not known.

    A model of timm for an ImageNet has the names of WordNet, such as n01440764, and those in words.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("label_names")
    if names:
        return [[str(name) for name in (names.values() if isinstance(names, Mapping) else names)]]
    subset = infer_imagenet_subset(dict(config)) if config else None
    if not subset:
        return []
    info = ImageNetInfo(subset)
    return [info.label_names(), [info.index_to_description(number) for number in range(info.num_classes())]]
