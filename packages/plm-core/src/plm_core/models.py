"""Models by name: timm's functions, with the models of every plug-in and with errors that suggest similar names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plm_core import timm_bridge
from plm_core.errors import DuplicateName, InputError, PlmError, PluginError, UnknownName, WeightsError
from plm_core.hookspecs import Input, Model
from plm_core.hub import HubFile, check_config, one_line
from plm_core.registry import registry
from plm_core.sources import torchvision, transformers
from plm_core.utils.images import Channels
from plm_core.utils.near_misses import miss

LIBRARIES = {"torchvision": torchvision.create, "transformers": transformers.create}
MAX_WHY = 300
"""Number of characters of another library's message that an error quotes."""
SOURCES = ("hf-hub", "hf_hub", "local-dir", *LIBRARIES)  # hf_hub is timm's older spelling


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a model of timm or of any plug-in, with ``timm.create_model``, or one of another library.

    Args:
        name: ``name``, ``name.tag``, ``hf-hub:org/name[@revision]`` (or just ``org/name``) or ``local-dir:path`` (or
            just the path of a model folder) for a model with timm's interface. ``torchvision:resnet50`` or
            ``torchvision:resnet50.IMAGENET1K_V1`` for a model of torchvision. ``transformers:org/name[@revision]`` or
            ``transformers:path`` for a model of transformers.
        pretrained: Load weights. If the name has no tag, they are those of the default tag.
        **kwargs: Keywords of timm: ``num_classes`` (0 for no classifier), ``in_chans``, ``img_size``,
            ``features_only``... The other libraries take ``num_classes`` too, and keywords of their own.

    Raises:
        UnknownName: There is no such model or tag. The message gives similar names and the distribution that would
            provide the model.
        DuplicateName: Two plug-ins declare the name.
        PluginError: timm cannot register what the plug-in declares.
        WeightsError: The weights cannot be obtained or do not fit.
        NotSupported: ``num_classes`` has no meaning for the model.
        MissingDependency: The library of the model is not installed.

    Example:
        >>> import plm_core
        >>> plm_core.create_model("hiera_micro_digits", pretrained=True).num_classes
        10
        >>> plm_core.create_model("test_vit", num_classes=3).num_classes  # a model of timm
        3
    """
    source, colon, rest = name.partition(":")
    if colon and (create := LIBRARIES.get(source.lower())) is not None:
        return create(rest, pretrained, **kwargs)
    timm_bridge.register()
    name = _with_source(name)
    source, colon, rest = name.partition(":")
    if source.lower() == "local-dir":
        check_config(Path(rest), pretrained)
    if not colon:
        if "/" in name and HubFile.parse(name):
            hub_name = f"hf-hub:{name}"
            return _create_by_timm(hub_name, pretrained, f"{hub_name} (and there is no folder {name!r})", **kwargs)
        _check_name(name)
    elif source.lower() not in SOURCES:
        allowed = ", ".join(f"'{known}:'" for known in SOURCES if known != "hf_hub")
        raise InputError(f"model {name!r} has source {source!r}; {allowed} are allowed")
    return _create_by_timm(name, pretrained, name, **kwargs)


def _create_by_timm(name: str, pretrained: bool, source: str, **kwargs: Any) -> nn.Module:
    """Call timm.create_model, and turn its errors into lines of ours, in which the model is called ``source``."""
    import timm

    try:
        with one_line(f"cannot get {source}"):
            return timm.create_model(name, pretrained=pretrained, **kwargs)
    except json.JSONDecodeError as e:
        raise WeightsError(f"cannot get {name}: its config.json is not JSON ({e})") from e
    except KeyError as e:
        if e.args != ("architecture",):
            raise
        # the config.json of an original's own repository holds nothing but constructor keywords
        why = "its config.json is not timm's (no 'architecture')"
        raise WeightsError(f"cannot get {name}: {why}; create the model by name and use plm_core.weights.load") from e
    except PlmError:
        raise
    except Exception as e:
        if unknown := re.fullmatch(r"Unknown model \((.+)\)", str(e)):  # a name in the config.json of a repository
            _check_name(unknown[1])
        if ":" not in name or kwargs:  # the keywords of the caller may be what is wrong
            raise
        why = " ".join(str(e).split()) or type(e).__name__
        raise WeightsError(
            f"cannot get {source}: its config.json and its weights make no model: {why[:MAX_WHY]}"
        ) from e


def _with_source(name: str) -> str:
    """Return ``local-dir:path`` for the path of a folder, and other names unchanged.

    A folder comes before a repository of the Hub of the same name, and after a model of timm's registry.
    """
    import timm

    if not name or (":" in name and not Path(name).is_absolute()):
        return name
    folder = Path(name)
    is_model = timm.is_model(name.partition(".")[0]) and "/" not in name
    return f"local-dir:{name}" if folder.is_dir() and not is_model else name


def _check_name(name: str) -> None:
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        try:
            registry().get(Model, arch)
        except DuplicateName:
            raise
        except UnknownName:
            raise UnknownName(miss("model", arch, [*registry().all(Model), *timm.list_models()])) from None
        if arch in registry().left_out:
            raise PluginError(f"model {arch!r} could not be registered with timm: {registry().left_out[arch]}")
    if tag:
        tags = [known.partition(".")[2] for known in timm.list_models(f"{arch}.*", include_tags=True)]
        if tag not in tags:
            raise UnknownName(miss(f"tag of model {arch!r} named", tag, filter(None, tags)))


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
    return Compose([Channels(config["input_size"][0]), timm.data.create_transform(**config, is_training=False)])


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
