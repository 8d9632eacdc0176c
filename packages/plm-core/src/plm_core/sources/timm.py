"""Models with timm's interface by name: of timm's registry and of plug-ins, from folders and from the Hub."""

from __future__ import annotations

import os
import pickle
import re
import reprlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from plm_core import timm_bridge
from plm_core.errors import DuplicateName, InputError, NoWeights, PlmError, PluginError, UnknownName, WeightsError
from plm_core.hookspecs import Model
from plm_core.hub import CONFIG_FILE, WEIGHTS_FILE, HubFile, check_config, download, one_line
from plm_core.model_config import fault_of
from plm_core.registry import registry
from plm_core.utils.files import existing_folder
from plm_core.utils.near_misses import miss
from plm_core.utils.text import shown

MAX_WHY = 300
"""Number of characters of another library's message that an error quotes."""


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a model with ``timm.create_model``.

    Args:
        name: ``name``, ``name.tag``, ``hf-hub:org/name[@revision]``, ``local-dir:path``, or one of the last two without
            its source.
        pretrained: Load weights.
        **kwargs: Keywords of timm and of the model.

    Raises:
        UnknownName: There is no such model or tag.
        DuplicateName: Two plug-ins declare the name.
        PluginError: timm cannot register what the plug-in declares.
        InputError: The name has an unknown source or is incomplete, or a keyword is not accepted.
        WeightsError: The weights or their configuration cannot be obtained, cannot be used or do not fit.
    """
    timm_bridge.register()
    given = name
    if ":" not in name or Path(name).is_absolute():
        name = _with_source(name)
    source, colon, rest = name.partition(":")
    if not colon:
        return _of_registry(name, pretrained, **kwargs)
    if source.lower() == "local-dir":
        return _of_folder(rest, pretrained, **kwargs)
    if source.lower() in ("hf-hub", "hf_hub"):  # the latter is timm's older spelling
        note = f" (and there is no folder {given!r})" if given == rest else ""
        return _of_repository(rest, pretrained, note, **kwargs)
    allowed = "'hf-hub:', 'local-dir:', 'torchvision:', 'transformers:'"
    raise InputError(f"model '{shown(name)}' has source '{shown(source)}'; {allowed} are allowed")


def folder_of(name: str) -> Path | None:
    """Return the model folder that a name stands for, or None if it stands for another model or for none."""
    timm_bridge.register()
    if ":" not in name or Path(name).is_absolute():
        try:
            name = _with_source(name)
        except UnknownName:
            return None
    source, _, path = name.partition(":")
    return existing_folder(path) if source.lower() == "local-dir" and path else None


def _with_source(name: str) -> str:
    """Return a name with its source, if it has one: the path of a folder, or else a repository of the Hub.

    A folder comes before a repository of the same name, and after a model of timm's registry.
    """
    import timm

    if "/" not in name and timm.is_model(name.partition(".")[0]):
        return name
    if name and existing_folder(name):
        return f"local-dir:{name}"
    if os.path.isfile(name):  # unlike Path.is_file, False where a name cannot be a path
        raise UnknownName(f"no model '{shown(name)}': it is a file; name its folder, which has a config.json too")
    if HubFile.parse(name):
        return f"hf-hub:{name}"
    if "/" in name or name.startswith("~"):
        raise UnknownName(f"no model '{shown(name)}': there is no such folder, and no repository can have this name")
    return name


def _of_registry(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    import timm

    _check_name(name)
    cfg = timm.get_pretrained_cfg(name) if pretrained else None
    file = None
    if cfg is not None and cfg.hf_hub_id and not cfg.file:
        repo, _, revision = cfg.hf_hub_id.partition("@")
        file = HubFile(repo, revision or None, cfg.hf_hub_filename or WEIGHTS_FILE)
    return _create_by_timm(name, pretrained, name, file, **kwargs)


def _of_folder(path: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    if not path:
        raise InputError("model 'local-dir:' has no path; 'local-dir:FOLDER' is expected")
    folder = existing_folder(path)
    if folder is None:
        raise WeightsError(f"cannot get local-dir:{shown(path)}: there is no such folder")
    check_config(folder, pretrained)
    return _create_by_timm(f"local-dir:{folder}", pretrained, f"local-dir:{path}", **kwargs)


def _of_repository(text: str, pretrained: bool, note: str, **kwargs: Any) -> nn.Module:
    repo = HubFile.parse(f"hf-hub:{text}")
    if repo is None:
        raise InputError(f"model 'hf-hub:{shown(text)}' is not allowed: 'hf-hub:org/name[@revision]' is")
    name = f"hf-hub:{text.removesuffix('@')}"
    return _create_by_timm(name, pretrained, name + note, replace(repo, file=CONFIG_FILE), **kwargs)


def _create_by_timm(name: str, pretrained: bool, source: str, file: HubFile | None = None, **kwargs: Any) -> nn.Module:
    """Call timm.create_model, and turn its errors into lines of ours, in which the model is called ``source``.

    ``file`` is the first one that it reads of a repository. A config.json is checked before timm reads it.
    """
    try:
        with one_line(f"cannot get {source}", file):
            if file is not None and file.file == CONFIG_FILE:
                fault = fault_of(download(file, kwargs.get("cache_dir")), name.partition(":")[2])
                if fault:
                    raise WeightsError(f"cannot get {source}: {fault}")
            return _sized(name, pretrained, **kwargs)
    except PlmError:
        raise
    except Exception as e:
        if unknown := re.fullmatch(r"Unknown model \((.+)\)", str(e)):  # a name in the config.json of a repository
            _check_name(unknown[1])
        if isinstance(e.__cause__, pickle.UnpicklingError):  # timm's message tells how to run it
            why = "its weights are a pickle of more than tensors, which is refused because it could run code"
            raise WeightsError(f"cannot get {source}: {why}") from e
        if "No pretrained weights exist" in str(e):
            raise NoWeights(f"there are no weights of {name}; pretrained=False makes it random") from e
        why = shown(" ".join(str(e).split()) or type(e).__name__, MAX_WHY)
        if kwargs:  # most probably what is wrong
            given = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in kwargs.items())
            raise InputError(f"cannot create {source} with {given}: {why}") from e
        if not (pretrained or ":" in name):
            raise
        raise WeightsError(f"cannot get {source}: its weights and its configuration make no model: {why}") from e


def _sized(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Call timm.create_model, also with an ``img_size`` for a model that takes any size and has no such keyword.

    That is most convolutional networks. The size is then that of the model's preprocessing.

    Raises:
        InputError: The size is none, or the model has a size that cannot be changed.
    """
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except TypeError as e:
        if kwargs.get("img_size") is None or "unexpected keyword argument 'img_size'" not in str(e):
            raise
    size = kwargs.pop("img_size")
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"img_size {size!r} is not allowed: a whole number from 1, or a height and a width, is")
    model = timm.create_model(name, pretrained=pretrained, **kwargs)
    config = getattr(model, "pretrained_cfg", None)
    if not config or config.get("fixed_input_size"):
        raise InputError(f"img_size {size!r} is not for {name}: its size cannot be changed")
    changed = {"input_size": (config["input_size"][0], *sides), "test_input_size": None, "pool_size": None}
    model.pretrained_cfg = model.default_cfg = {**config, **changed}  # timm has both names
    return model


def _check_name(name: str) -> None:
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        try:
            registry().get(Model, arch)
        except DuplicateName:
            raise
        except UnknownName:
            raise UnknownName(miss("model", shown(arch), [*registry().all(Model), *timm.list_models()])) from None
        if arch in registry().left_out:
            raise PluginError(f"model {arch!r} could not be registered with timm: {registry().left_out[arch]}")
    if tag:
        tags = [known.partition(".")[2] for known in timm.list_models(f"{arch}.*", include_tags=True)]
        if tag not in tags:
            raise UnknownName(miss(f"tag of model {arch!r} named", tag, filter(None, tags)))
