"""Partial merges as models of timm's registry, so that a folder or a repository of the Hub gives them back.

The config.json of such a folder names the models that were merged and the place where they were cut. From these, the
trunk and the heads are made anew, and the weights are loaded into them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from plm_core import InputError
from zipit.parts import Merged, Unmerge, cut_in_two

NAME = "zipit_merged"
"""The name of all partial merges in the registry."""
DATA = ("input_size", "fixed_input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
"""The entries of timm's configuration that say what a model takes."""
SHARED = ("label_names", "label_descriptions", "license")
"""The entries of timm's configuration that hold for a merged model only if they hold for all of its models."""


def merged(
    models: Sequence[tuple[str, Mapping[str, Any]]],
    until: str | Sequence[str],
    unmerge: Sequence[tuple[int, int]] = (),
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | Sequence[int] | None = None,
) -> Merged:
    """Return an untrained trunk and heads, of which each has the classes of its model.

    Args:
        models: The name of each model for ``plm_core.create_model``, with keywords for it. The trunk is of the first.
        until: The modules before which the models are cut.
        unmerge: The dimensions of the tensor between trunk and heads, and their sizes, along which each head gives its
            features the merged ones that they are in.
        num_classes: Number of classes of all heads together, which follows from the models.
        in_chans: Channels of the input. None for those of the models.
        img_size: Height and width of the input. None for those of the models.

    Raises:
        InputError: ``num_classes`` is another number, or a name has a source such as ``hf-hub:``.
        NotSupported: A model cannot be cut there.
    """
    from plm_core.models import create_model

    names = [until] if isinstance(until, str) else list(until)
    given = {"in_chans": in_chans, "img_size": img_size}
    changed = {key: value for key, value in given.items() if value is not None}
    made: list[Any] = []
    for name, options in models:
        if ":" in name or "/" in name:  # a config.json must not make anything be fetched
            raise InputError(f"models names {name!r}; a name of the registry without a source is expected")
        keywords: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        made.append(create_model(name, **{**keywords, **changed}).eval())
    classes: int = sum(model.num_classes for model in made)
    if num_classes not in (None, classes):
        raise InputError(f"num_classes is {num_classes}; the heads of a merged model have {classes} classes together")
    heads = []
    for model in made:
        head = cut_in_two(model, names)[1]
        if unmerge:
            places = Unmerge({dim: torch.arange(size) for dim, size in unmerge})
            head = nn.Sequential(OrderedDict(unmerge=places, rest=head))
        heads.append(head)
    result: Any = Merged(cut_in_two(made[0], names)[0], heads)
    result.num_classes, result.num_features = classes, made[0].num_features
    return result


def name_partial(partial: Any, models: Sequence[Any], until: Sequence[str]) -> None:
    """Give a partial merge what timm needs to write it and to make it again, if all models were created by name.

    Its classes are those of all heads, one after the other.
    """
    if not all(map(_is_named, models)):
        return
    from timm.models import get_model_args, get_model_input_config

    first = models[0]
    config, spec = first.pretrained_cfg, get_model_input_config(first)
    stems = [spec["first_conv"]] if isinstance(spec["first_conv"], str) else spec["first_conv"] or ()
    labels = [model.pretrained_cfg.get("label_names") for model in models]
    partial.num_classes = sum(model.num_classes for model in models)
    partial.num_features = first.num_features
    partial.in_chans = spec["input_size"][0]
    partial.pretrained_cfg = partial.default_cfg = {
        **{key: config[key] for key in DATA if config.get(key) is not None},
        **{key: spec[key] for key in ("input_size", "fixed_input_size")},
        "architecture": NAME,
        "num_classes": partial.num_classes,
        "classifier": None,
        "first_conv": tuple(f"trunk.{stem}" for stem in stems) or None,
        "label_names": [name for names in labels for name in names] if _are_lists(labels) else None,
        "license": config.get("license") if _agree(models, "license") else None,
    }
    unmerge = partial.heads[0].get_submodule("unmerge") if hasattr(partial.heads[0], "unmerge") else None
    partial._model_args = {
        "models": [(model.pretrained_cfg["architecture"], get_model_args(model)) for model in models],
        "until": list(until),
        "unmerge": [(dim, len(unmerge.get_buffer(f"index_{dim}"))) for dim in unmerge.dims] if unmerge else [],
    }


def name_whole(whole: Any, models: Sequence[Any]) -> None:
    """Take from the configuration of a whole merge, a copy of the first model, what does not hold for all models."""
    if all(map(_is_named, models)):
        kept = {key: None for key in SHARED if not _agree(models, key)}
        whole.pretrained_cfg = whole.default_cfg = {**whole.pretrained_cfg, **kept}


def _is_named(model: Any) -> bool:
    """Return whether a model was created by name, with timm's interface."""
    return bool((getattr(model, "pretrained_cfg", None) or {}).get("architecture")) and hasattr(model, "num_classes")


def _agree(models: Sequence[Any], key: str) -> bool:
    values = [model.pretrained_cfg.get(key) for model in models]
    values = [list(value) if isinstance(value, tuple) else value for value in values]
    return all(value == values[0] for value in values)


def _are_lists(labels: Sequence[Any]) -> bool:
    return all(isinstance(names, list | tuple) for names in labels)
