"""Checks of settings and options: each has the type of its annotation, is a finite number, and is in its range."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from plm_core.errors import InputError
from plm_core.utils.annotations import describe, fits, type_hints

Range = tuple[Callable[[Any], bool], str]
"""A range: a function that tells whether a value is in it, and the range in words."""

MORE_THAN_0: Range = (lambda value: value > 0, "more than 0")
AT_LEAST_0: Range = (lambda value: value >= 0, "0 or more")
AT_LEAST_1: Range = (lambda value: value >= 1, "1 or more")
RATE: Range = (lambda value: 0 <= value < 1, "a number from 0 to less than 1")
SHARE: Range = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
SCALE: Range = (lambda value: 0 < value[0] <= value[1] <= 1, "a smaller and a larger number, above 0 and up to 1,")
SEED: Range = (lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")


def check_config(config: Any, **ranges: Range) -> None:
    """Check the fields of a config, a dataclass. None is in every range.

    Args:
        config: A config.
        **ranges: Ranges by the names of fields.

    Raises:
        InputError: A field has another type than its annotation, is NaN or infinite, or is out of its range.
    """
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    check_options(type(config), values, **ranges)
    for name, value in values.items():
        if not _finite(value):
            raise refused(name, value, "a finite number")


def check_options(annotated: Any, values: Mapping[str, Any], **ranges: Range) -> None:
    """Check values against the annotations of a class or a function, and against ranges. None is in every range.

    Args:
        annotated: The class or the function.
        values: Values by the names of its fields or arguments.
        **ranges: Ranges by name. Those without a value are left out.

    Raises:
        InputError: A value has another type than its annotation, or is out of its range.
    """
    hints = type_hints(annotated)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise refused(name, value, describe(hints[name]))
    for name, (passes, allowed) in ranges.items():
        if values.get(name) is not None and not passes(values[name]):
            raise refused(name, values[name], allowed)


def training_device(name: str) -> Any:
    """Return the device that a training runs on: the CPU or the accelerator, of which the Trainer takes the first one.

    Args:
        name: ``auto`` for the accelerator if there is one, ``cpu``, or the accelerator's name.

    Raises:
        InputError: There is no such device, or it cannot be trained on.
    """
    from plm_core.utils.devices import pick_device  # torch is imported with it, which checks of settings do not need

    device = pick_device(name)
    if device.type not in ("cpu", pick_device("auto").type):
        raise InputError(f"device {name!r} cannot be trained on: auto, cpu and the accelerator's name are allowed")
    if device.index:
        raise InputError(
            f"device {name!r} is not the first of its kind, on which a training runs: hide the others, as in "
            f"CUDA_VISIBLE_DEVICES={device.index}"
        )
    return device


def refused(name: str, value: Any, allowed: str) -> InputError:
    """Return the error about a value that is not allowed."""
    return InputError(f"{name} {reprlib.repr(value)} is not allowed: {allowed} is")


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
