"""Models of gaze for commands, and what has to be said about their answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from gazelle.builders import load_release
from gazelle.model import GazeLLE
from plm_core import create_model
from plm_core.errors import InputError, NotSupported, NoWeights
from plm_core.hookspecs import Model
from plm_core.prediction.tasks import name_of, prepare
from plm_core.registry import registry
from plm_core.utils.arguments import split_random
from plm_core.utils.devices import pick_device

MICRO = "gazelle_micro_shapes"
MICRO_NOTE = "micro model, trained on drawn figures only: do not rely on it on photos"
RANDOM_NOTE = "random weights, nothing was trained: the answers mean nothing"


@dataclass(frozen=True)
class Loaded:
    """A model of gaze that is ready to be asked.

    Attributes:
        model: The model, in eval mode.
        name: Its name.
        note: What has to be said with its answers; empty for nothing.
    """

    model: GazeLLE
    name: str
    note: str = ""


def load(name: str | None = None, release: str | Path | None = None, device: str = "cpu") -> Loaded:
    """Return a model of gaze with its weights.

    Args:
        name: The name of a model, with or without tag, or the path of a model folder. ``random:NAME`` gives it random
            weights. None for the micro model, or with ``release`` for the model that the file is of.
        release: A file of the original's release, which holds the decoder. The backbone is then fetched from the
            Hugging Face Hub.
        device: Its device, or ``auto``.

    Raises:
        NoWeights: There are no weights of the model.
        NotSupported: It is no model of gaze.
        InputError: The device cannot be used, or the name asks for random weights beside a file of weights.
        PlmError: See `plm_core.create_model` and `gazelle.load_release`.
    """
    where = pick_device(device)
    bare, pretrained = split_random(name or MICRO, None)
    if release is not None and pretrained is False:
        raise InputError(f"model {name!r} asks for random weights, and {str(release)!r} has others: choose one")
    _check_gaze(bare)
    model: Any = load_release(release, name) if release is not None else _created(bare, pretrained is not False)
    if not isinstance(model, GazeLLE):
        raise NotSupported(f"model {bare!r} is no model of gaze, but {type(model).__name__}; gazelle_* are")
    prepare(model, bare, (), where, fast=False)
    shown = bare if release is None else name_of(model)
    return Loaded(model.eval(), shown, RANDOM_NOTE if pretrained is False else note_of(model))


def note_of(model: GazeLLE) -> str:
    """Return what has to be said with the answers of a model with weights; empty for nothing.

    A model folder has weights of another training than that of the micro model that it may be named after.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    entry = registry().all(Model).get(name_of(model))
    own = config.get("source") not in ("local-dir", "hf-hub")
    return MICRO_NOTE if own and entry is not None and entry.declaration.micro else ""


def _check_gaze(name: str) -> None:
    """Refuse models of other families by name, before anything is built or fetched."""
    if {"/", ":", "\\"} & set(name):
        return
    base = name.partition(".")[0]
    entry = registry().all(Model).get(base)
    if entry is not None and entry.declaration.family == "gazelle":
        return
    if entry is not None or timm.is_model(base):
        raise NotSupported(f"model {name!r} is no model of gaze; gazelle_* are")


def _created(name: str, pretrained: bool) -> Any:
    try:
        return create_model(name, pretrained=pretrained)
    except NoWeights as e:
        raise NoWeights(
            f"there are no weights of {name} here: give its file of the original's release (--weights {name}.pt), or "
            f"take random:{name} for random ones"
        ) from e
