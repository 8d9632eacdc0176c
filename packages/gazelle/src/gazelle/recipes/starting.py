"""The weights that a training begins with: a backbone's own, those of another training, or a released decoder's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gazelle.backbones import create_backbone
from gazelle.model import GazeLLE
from gazelle.recipes.training import INOUT
from plm_core import InputError, weights
from plm_core.errors import WeightsError
from plm_core.hookspecs import Model
from plm_core.hub import CONFIG_FILE
from plm_core.registry import registry
from plm_core.runs import Job
from plm_core.runs.job import architecture_of

BACKBONE = "backbone."


def create(job: Job, decoder: bool) -> GazeLLE:
    """Create the model of a job with its starting weights.

    A model with pretrained weights starts from these, and one without from those of its backbone alone.

    Args:
        job: The job.
        decoder: Whether the decoder must not start untrained, since the training goes on from another one.

    Raises:
        InputError: The model is none of gaze, or its decoder would start untrained.
        WeightsError: The weights cannot be obtained, or do not fit.
    """
    trained = job.pretrained and job.weights is None and _has_weights(job)
    if decoder and job.pretrained and job.weights is None and not trained:
        raise InputError(
            f"recipe {job.recipe!r} goes on from a model that was trained on GazeFollow: name its file (--weights), or "
            "start from random weights (--random)"
        )
    # a copy of the job writes to the same notes
    made = replace(job, pretrained=trained).create(load=lambda model, source: load_start(job, model, source))
    model = _checked(job, made)
    if job.pretrained and job.weights is None and not trained:
        load_backbone(job, model)
    return model


def _checked(job: Job, model: Any) -> GazeLLE:
    if not isinstance(model, GazeLLE):
        raise InputError(f"model {job.model!r} is a {type(model).__name__}; recipe {job.recipe!r} trains a GazeLLE")
    return model


def load_start(job: Job, made: Any, source: str) -> None:
    """Load a file of weights into a model: a whole model, or a released decoder, to which the backbone's own come.

    In/out parts that the file lacks stay untrained.

    Raises:
        InputError: The model is none of gaze.
        WeightsError: The file cannot be read, or does not fit.
    """
    model = _checked(job, made)
    state = weights.read(source, allow_pickle=True)
    whole = any(name.startswith(BACKBONE) for name in state)
    if not whole:
        load_backbone(job, model)
    own = model.state_dict()
    wanted = {name for name in own if INOUT not in name and (whole or not name.startswith(BACKBONE))}
    missing, left = sorted(wanted - state.keys()), sorted(n for n in state.keys() - own.keys() if INOUT not in n)
    if missing or left:
        parts = [f"{word} {', '.join(names[:3])}" for word, names in (("no", missing), ("no place for", left)) if names]
        raise WeightsError(f"{source!r} does not fit model {job.model!r}: {'; '.join(parts)}")
    fitting: dict[str, Tensor] = {name: state.get(name, value) for name, value in own.items()}
    try:
        model.load_state_dict(fitting)
    except RuntimeError as e:
        raise WeightsError(f"{source!r} does not fit model {job.model!r}: {str(e).splitlines()[-1].strip()}") from e


def load_backbone(job: Job, model: GazeLLE) -> None:
    """Give the backbone of a model its own pretrained weights."""
    declared = model.backbone.model.pretrained_cfg["architecture"]
    kwargs = job.model_kwargs
    options = {**kwargs.get("backbone_options", {}), "pretrained": True}
    eyes = create_backbone(str(kwargs.get("backbone", declared)), model.in_size, kwargs.get("positions"), **options)
    model.backbone.load_state_dict(eyes.state_dict())


def _has_weights(job: Job) -> bool:
    """Return whether there are pretrained weights of the whole model."""
    if (Path(job.model.removeprefix("local-dir:")) / CONFIG_FILE).is_file():
        return True
    declared = registry().all(Model).get(architecture_of(job.model))
    return bool(declared and declared.declaration.pretrained)
