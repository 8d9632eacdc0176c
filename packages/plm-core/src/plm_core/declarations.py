"""The check of a declaration when its plug-in is loaded, so that a bad one fails there and not where it is used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from plm_core import hookspecs
from plm_core.fields import Invalid
from plm_core.hookspecs import BlockAdapter, Declaration, Input, Model, Pretrained, WeightLayout
from plm_core.model_config import CROP_MODES, CROP_PCT, INTERPOLATIONS
from plm_core.utils.annotations import check_fields
from plm_core.utils.near_misses import miss
from plm_core.utils.text import is_name

MOST = 10**15
"""The most parameters or classes that a model may declare."""
REFERENCES: Mapping[type[Declaration], tuple[str, ...]] = {
    hookspecs.Model: ("builder",),
    hookspecs.WeightLayout: ("models", "rules"),
    hookspecs.BlockAdapter: ("models", "view", "embed"),
    hookspecs.Transform: ("apply", "remove"),
    hookspecs.Merger: ("merge",),
    hookspecs.Scorer: ("score",),
    hookspecs.Training: ("train", "configs"),
    hookspecs.Command: ("implementation",),
    hookspecs.TourStop: ("run",),
}
"""The fields of each kind that name code as ``"module:attribute"``."""
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def check(declaration: object, kind: type[Declaration]) -> None:
    """Check that a declaration is of a kind, that its fields are of the annotated types, and that their values can be.

    Raises:
        TypeError: It is not of exactly this class, or a field has another type.
        ValueError: A value is not allowed.
    """
    for part in _invalid(declaration):
        raise TypeError(part.fault)
    # a subclass could compare, hash or print itself in any way, and so disturb the other plug-ins
    if type(declaration) is not kind:
        raise TypeError(f"a {kind.__name__} was expected, a {type(declaration).__name__} came")
    check_fields(declaration)
    classes = declaration.models if isinstance(declaration, WeightLayout | BlockAdapter) else ()
    for key in (declaration.name, *classes):
        if type(key) is not str:
            raise TypeError(
                f"{kind.__name__} {declaration.name!r} has a {type(key).__name__} as a name; str is expected"
            )
    if not is_name(declaration.name):
        raise ValueError(
            f"name {declaration.name[:200]!r} is not allowed: letters, digits, '_' and '-' only, at most 100"
        )
    if isinstance(declaration, Model):
        _check_model(declaration)
    for field, reference in references(declaration):
        if not _REFERENCE.fullmatch(reference):
            raise ValueError(f"{field} is {reference[:200]!r}; 'module:attribute' is expected")


def references(declaration: Declaration) -> Iterator[tuple[str, str]]:
    """Yield the code that a declaration names: the field, such as ``Model.builder``, and ``"module:attribute"``."""
    for name in REFERENCES[type(declaration)]:
        value = getattr(declaration, name)
        for reference in value if isinstance(value, tuple) else (value,):
            if reference is not None:
                yield f"{type(declaration).__name__}.{name}", reference
    if isinstance(declaration, Model) and declaration.micro:
        yield "Micro.recipe", declaration.micro.recipe
        yield "Micro.evaluate", declaration.micro.evaluate


def _invalid(value: object) -> Iterator[Invalid]:
    """Yield what could not be made of a declaration and of the dataclasses in it."""
    if type(value) is Invalid:
        yield value
    elif type(value) is tuple:
        for part in value:
            yield from _invalid(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _invalid(getattr(value, field.name))


def _check_model(model: Model) -> None:
    _check_range("Model.params", model.params, 0, MOST)
    _check_range("Model.num_classes", model.num_classes, 0, MOST)
    _check_input(model.input)
    tags = [weights.tag for weights in model.pretrained]
    for number, weights in enumerate(model.pretrained):
        _check_weights(weights, model)
        if weights.tag in tags[:number]:
            raise ValueError(f"Model.pretrained has two entries with the tag {weights.tag!r}")
    if model.task not in hookspecs.TASKS:
        raise ValueError(f"Model.task: {miss('task', model.task, hookspecs.TASKS)}")


def _check_weights(weights: Pretrained, model: Model) -> None:
    if not all(map(is_name, weights.tag.split("."))):
        raise ValueError(f"Pretrained.tag {weights.tag[:200]!r} is not allowed: letters, digits, '_', '-' and '.' only")
    if weights.num_classes is not None:
        _check_range("Pretrained.num_classes", weights.num_classes, 0, MOST)
    if weights.input is not None:
        _check_input(weights.input)
    classes = model.num_classes if weights.num_classes is None else weights.num_classes
    if weights.labels is not None and len(weights.labels) != classes:
        raise ValueError(
            f"Pretrained.labels of {weights.tag!r} has {len(weights.labels)} names; the weights have {classes} classes"
        )
    if weights.repo is None and not re.fullmatch(r"[\w.]+:.+", weights.file):
        raise ValueError(
            f"Pretrained.file of {weights.tag!r} is {weights.file[:200]!r}; without a repo, 'package:path' of a "
            "shipped file is expected"
        )
    if not weights.license.strip():
        raise ValueError(
            f"Pretrained.license of {weights.tag!r} is empty; an SPDX identifier, 'other' or 'unknown' is expected"
        )


def _check_input(spec: Input) -> None:
    if len(spec.size) != 3:
        raise ValueError(f"Input.size is {spec.size}; (channels, height, width) is expected")
    for side in (*spec.size, spec.stride, *([] if spec.frames is None else [spec.frames])):
        _check_range("a number in Input.size, Input.frames or Input.stride", side, 1, 10**6)
    for name, values in (("mean", spec.mean), ("std", spec.std), ("crop_pct", (spec.crop_pct,))):
        if not all(map(math.isfinite, values)):
            raise ValueError(f"Input.{name} is {values}; finite numbers are expected")
        if name != "crop_pct" and len(values) != spec.size[0]:
            raise ValueError(f"Input.{name} is {values}; one number for each of {spec.size[0]} channels is expected")
    if not min(spec.std) > 0:
        raise ValueError(f"Input.std is {spec.std}; numbers above 0 are expected")
    if not CROP_PCT[0] <= spec.crop_pct <= CROP_PCT[1]:
        raise ValueError(f"Input.crop_pct is {spec.crop_pct}; {CROP_PCT[0]:g} to {CROP_PCT[1]:g} is allowed")
    _check_choice("Input.interpolation", spec.interpolation, INTERPOLATIONS)
    _check_choice("Input.crop_mode", spec.crop_mode, CROP_MODES)


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value if abs(value) < 10**30 else 'huge'}; {least} to {most} is allowed")


def _check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value[:200]!r}; one of {', '.join(allowed)} is expected")
