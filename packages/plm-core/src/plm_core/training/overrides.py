"""Changes to a configuration, written as text on the command line, such as ``epochs=100``."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from plm_core.errors import InputError, UnknownName
from plm_core.utils.near_misses import miss
from plm_core.utils.progress import main_process

Config = TypeVar("Config")

_log = logging.getLogger(__name__)


def override(config: Config, changes: Mapping[str, str]) -> Config:
    """Return a configuration in which some fields are replaced. Values are written as in Python.

    The warm-up follows the length of the training: when ``epochs`` is changed and ``warmup_epochs`` is not,
    ``warmup_epochs`` is changed in proportion, and a warning is logged that says so.

    Args:
        config: A frozen dataclass, such as a `Recipe`. If it has a field ``recipe`` that is a dataclass, the fields of
            that can be changed by their own names too.
        changes: Names of fields and the text of their new values, such as ``{"epochs": "100", "scale": "(0.5, 1)"}``.

    Raises:
        UnknownName: There is no such field.
        InputError: A value has another type than the field, or the configuration refuses it.
    """
    own = _values(config)
    nested = own.pop("recipe", None) if is_dataclass(own.get("recipe")) else None
    recipe = {} if nested is None else _values(nested)
    types = get_type_hints(type(nested)) | get_type_hints(type(config))
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
    for name, value in warmup.items():
        if main_process():
            _log.warning("%s follows epochs: %.4g -> %.4g", name, (recipe | own)[name], value)
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
    except (ValueError, SyntaxError):
        value = text
    if not _fits(value, hint):
        expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise InputError(f"{name} {text!r} is not allowed: {expected} is expected, such as {old!r}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of a field. Whole numbers are accepted as floats."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        types = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is ... else arguments
        return isinstance(value, tuple) and len(value) == len(types) and all(map(_fits, value, types))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else origin or hint)
