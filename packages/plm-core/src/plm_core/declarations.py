"""The check of a declaration when its plug-in is loaded, so that a bad one fails there and not where it is used."""

from __future__ import annotations

import math

from plm_core.hookspecs import BlockAdapter, Declaration, Input, Model, Pretrained, WeightLayout
from plm_core.utils.annotations import check_fields
from plm_core.utils.text import is_name

MOST = 10**15
"""The most parameters or classes that a model may declare."""


def check(declaration: object, kind: type[Declaration]) -> None:
    """Check that a declaration is of a kind, that its fields are of the annotated types, and that their values can be.

    Raises:
        TypeError: It is not of exactly this class, or a field has another type.
        ValueError: A value is not allowed.
    """
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


def _check_model(model: Model) -> None:
    _check_range("Model.params", model.params, 0, MOST)
    _check_range("Model.num_classes", model.num_classes, 0, MOST)
    _check_input(model.input)
    tags = [weights.tag for weights in model.pretrained]
    for number, weights in enumerate(model.pretrained):
        _check_weights(weights)
        if weights.tag in tags[:number]:
            raise ValueError(f"Model.pretrained has two entries with the tag {weights.tag!r}")


def _check_weights(weights: Pretrained) -> None:
    if not all(map(is_name, weights.tag.split("."))):
        raise ValueError(f"Pretrained.tag {weights.tag[:200]!r} is not allowed: letters, digits, '_', '-' and '.' only")
    if weights.num_classes is not None:
        _check_range("Pretrained.num_classes", weights.num_classes, 0, MOST)
    if weights.input is not None:
        _check_input(weights.input)


def _check_input(spec: Input) -> None:
    if len(spec.size) != 3:
        raise ValueError(f"Input.size is {spec.size}; (channels, height, width) is expected")
    for side in (*spec.size, spec.stride, *([] if spec.frames is None else [spec.frames])):
        _check_range("a number in Input.size, Input.frames or Input.stride", side, 1, 10**6)
    for name, values in (("mean", spec.mean), ("std", spec.std), ("crop_pct", (spec.crop_pct,))):
        if not all(map(math.isfinite, values)):
            raise ValueError(f"Input.{name} is {values}; finite numbers are expected")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value if abs(value) < 10**30 else 'huge'}; {least} to {most} is allowed")
