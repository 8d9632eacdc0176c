"""Changes to a configuration, written as text on the command line, such as ``epochs=100``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import fields, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from plm_core import InputError


def choose(table: Mapping[str, Any], size: str) -> Any:
    """Return the configuration of a size.

    Raises:
        InputError: The table has no such size.
    """
    if size not in table:
        raise InputError(f"size {size!r} is not allowed here: {', '.join(table)} are")
    return table[size]


def override(config: Any, changes: Mapping[str, str]) -> Any:
    """Return a configuration in which fields of its own or of its recipe are replaced. Values are written as in Python.

    Raises:
        InputError: There is no such field, or a value has another type.
    """
    own, recipe = ({f.name: getattr(part, f.name) for f in fields(part)} for part in (config, config.recipe))
    del own["recipe"]
    types = get_type_hints(type(config.recipe)) | get_type_hints(type(config))
    for name, text in changes.items():
        if name not in own and name not in recipe:
            raise InputError(f"{name!r} cannot be set: {', '.join([*own, *recipe])} can")
        target = own if name in own else recipe
        target[name] = _parse(name, text, types[name], target[name])
    return replace(config, recipe=type(config.recipe)(**recipe), **own)


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
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        types = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is ... else arguments
        return isinstance(value, tuple) and len(value) == len(types) and all(map(_fits, value, types))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)
