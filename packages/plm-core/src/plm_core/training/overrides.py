"""Changes to a configuration, written as text on the command line, such as ``epochs=100``."""

from __future__ import annotations

import ast
import logging
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from plm_core.errors import InputError, UnknownName
from plm_core.utils.annotations import describe, fits, type_hints
from plm_core.utils.near_misses import miss
from plm_core.utils.progress import main_process

Config = TypeVar("Config")

_log = logging.getLogger(__name__)


def override(config: Config, changes: Mapping[str, str], say: Callable[[str], None] = _log.warning) -> Config:
    """Return a configuration in which some fields are replaced. Values are written as in Python.

    The warm-up follows the length of the training: when ``epochs`` is changed and ``warmup_epochs`` is not,
    ``warmup_epochs`` is changed in proportion, and a note says so.

    Args:
        config: A frozen dataclass, such as a `Recipe`. If it has a field ``recipe`` that is a dataclass, the fields of
            that can be changed by their own names too.
        changes: Names of fields and the text of their new values, such as ``{"epochs": "100", "scale": "(0.5, 1)"}``.
        say: A function that takes the note (default: it is logged as a warning).

    Raises:
        UnknownName: There is no such field.
        InputError: A value has another type than the field, or the configuration refuses it.
    """
    own = _values(config)
    nested = own.pop("recipe", None) if is_dataclass(own.get("recipe")) else None
    recipe = {} if nested is None else _values(nested)
    types = type_hints(type(nested)) | type_hints(type(config))  # type: ignore[arg-type]
    new: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in own and name not in recipe:
            known = [*own, *recipe]
            raise UnknownName(miss("setting", name, known, most=len(known)))
        new[name] = _parse(name, text, types[name], own.get(name, recipe.get(name)))
    warmup = _warmup(recipe | own, new)
    own_changes = {name: value for name, value in (new | warmup).items() if name in own}
    if nested is not None:
        inner = {name: value for name, value in (new | warmup).items() if name not in own}
        own_changes["recipe"] = replace(nested, **inner)
    changed: Config = replace(config, **own_changes)  # type: ignore[type-var]
    for name, value in warmup.items() if main_process() else ():
        say(f"{name} follows epochs: {(recipe | own)[name]:.4g} -> {value:.4g}")
    return changed


def settings_of(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that `override` can change, by name: its own, and those of its recipe."""
    own = _values(config)
    nested = own.pop("recipe", None) if is_dataclass(own.get("recipe")) else None
    return own | ({} if nested is None else _values(nested))


def _values(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _warmup(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, float]:
    """Return the warm-up that has the old share of the new number of epochs, or nothing if it stays as it is."""
    if "epochs" not in new or "warmup_epochs" in new or not old.get("warmup_epochs") or new["epochs"] == old["epochs"]:
        return {}
    warmup = old["warmup_epochs"] * (new["epochs"] / old["epochs"])
    return {"warmup_epochs": min(warmup, new["epochs"])}  # rounding must not make it longer than the training


def _parse(name: str, text: str, hint: Any, old: Any) -> Any:
    """Return the value that a text stands for, which must have the type of the field."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if not fits(value, hint):
        given = reprlib.repr(text)
        raise InputError(f"{name} {given} is not allowed: {describe(hint)} is expected, such as {old!r}")
    return value
