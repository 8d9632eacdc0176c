"""Transforms by name. A transform changes a model in place and can be undone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from plm_core.errors import InputError
from plm_core.hookspecs import Transform
from plm_core.registry import registry
from plm_core.utils.references import resolve
from plm_core.utils.text import is_name, literal

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")
APPLIED = "_plm_transforms"


def apply(model: M, name: str, **options: Any) -> M:
    """Apply a transform to a model in place.

    Args:
        model: Any model that the transform supports.
        name: The transform's name in the registry.
        **options: Options of the transform.

    Returns:
        The same model.

    Raises:
        UnknownName: There is no such transform. The message names the distribution that would provide it.
        NotSupported: The transform cannot work on this model. The message says why, and the model is unchanged.
        InputError: The transform is applied already, or has no such option.

    Example:
        >>> import plm_core
        >>> import torch
        >>> model = plm_core.create_model("test_vit").eval()
        >>> image = torch.rand(1, 3, 160, 160)
        >>> logits = model(image)
        >>> model = plm_core.apply(model, "tome", r=8)  # merges 8 tokens in each block
        >>> torch.equal(model(image), logits)
        False
    """
    _check_model(model)
    spec = registry().get(Transform, _checked_name(name))
    if name in applied_to(model):
        raise InputError(f"transform {name!r} is applied to this {type(model).__name__} already; remove it first")
    function = resolve(spec.apply)
    try:
        inspect.signature(function).bind(model, **options)
    except TypeError as e:
        raise InputError(f"transform {name!r}: {e}; its signature is {inspect.signature(function)}") from None
    function(model, **options)
    record(model, name)
    return model


def remove(model: M, name: str | None = None) -> M:
    """Undo a transform. Afterwards the model gives the outputs that it gave before.

    Args:
        model: The model.
        name: The transform to undo, which must be the last one applied. None for all, in reverse order.

    Returns:
        The same model.

    Raises:
        InputError: The named transform is not applied, or not the last one applied.

    Example:
        >>> import plm_core
        >>> import torch
        >>> model = plm_core.create_model("test_vit").eval()
        >>> image = torch.rand(1, 3, 160, 160)
        >>> logits = model(image)
        >>> model = plm_core.remove(plm_core.apply(model, "tome", r=8))
        >>> torch.equal(model(image), logits)
        True
    """
    _check_model(model)
    applied = applied_to(model)
    if name is not None and applied[-1:] != [name]:
        why = f"it is not the last one applied (in order: {', '.join(applied)})" if applied else "none is applied"
        raise InputError(f"transform {name!r} cannot be removed: {why}")
    for last in [name] if name is not None else list(reversed(applied)):
        try:
            resolve(registry().get(Transform, last).remove)(model)
        except InputError:  # it is gone already, from a part of the model
            forget(model, last)
            raise
        forget(model, last)
    return model


def applied_to(model: object) -> list[str]:
    """Return the names of the transforms that are applied to a model, in the order of their application."""
    return list(model.__dict__.get(APPLIED, []))


def record(model: object, name: str) -> None:
    """Note that a transform is applied to a model, unless it is noted already.

    A transform that has functions of its own to apply and remove it calls this and `forget` there. Then either way of
    removing it undoes either way of applying it.
    """
    applied = applied_to(model)
    if name not in applied:
        model.__dict__[APPLIED] = [*applied, name]


def forget(model: object, name: str) -> None:
    """Note that a transform is no longer applied to a model."""
    rest = [other for other in applied_to(model) if other != name]
    if rest:
        model.__dict__[APPLIED] = rest
    else:
        model.__dict__.pop(APPLIED, None)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse the value of ``--transform``: ``tome:r=13,prop_attn=False`` -> ``("tome", {"r": 13, ...})``.

    Values are Python literals (numbers, True, tuples, lists, None). Anything else is a string.

    Raises:
        InputError: The text has another form.
    """
    if not isinstance(text, str):
        raise InputError(f"transform is {text!r}; it is a text such as 'tome:r=8'")
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in _split(rest):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not (key.isidentifier() and value):
            raise InputError(f"transform {text!r}: option {part!r} is not of the form key=value")
        if key in options:
            raise InputError(f"transform {text!r}: option {key!r} is given twice")
        options[key] = literal(value)
    if not is_name(name):
        raise InputError(f"transform {text!r} is not of the form name or name:key=value,...")
    return name, options


def split_stack(text: str) -> list[str]:
    """Split the value of ``--compare`` into transforms: ``packed+tome:r=13`` -> ``["packed", "tome:r=13"]``.

    A plus sign ends a transform if a letter follows it, so ``tome:flops=5e+1`` is one.
    """
    return re.split(r"\+(?=[^\W\d])", text)


def apply_all(model: M, texts: Iterable[str]) -> M:
    """Apply transforms in order, each written in the form that `parse` reads."""
    for text in texts:
        name, options = parse(text)
        apply(model, name, **options)
    return model


def _check_model(model: object) -> None:
    if not callable(model) or isinstance(model, type) or not hasattr(model, "__dict__"):
        raise InputError(f"model is a {type(model).__name__}; it can be a torch.nn.Module or a pipeline of diffusers")


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise InputError(f"name is {name!r}; it is the name of a transform, such as 'tome'")
    return name


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise InputError(f"brackets in {text!r} do not match")
    return [part for part in parts if part.strip()]
