"""Checks of arguments at the door of a public function, and what many of them share."""

from __future__ import annotations

from types import UnionType

from plm_core.errors import InputError

DEVICE = "auto"
"""The device of every command and function that runs a model, unless another is named: the accelerator if there is
one, else the CPU."""
RANDOM = "random:"
"""The prefix of the name of a model that stands for random weights."""


def check_type(name: str, value: object, kinds: type | UnionType, expected: str) -> None:
    """Check the type of an argument.

    Args:
        name: Name of the argument.
        value: Its value.
        kinds: The types that are allowed.
        expected: These types in words, such as "a path".

    Raises:
        InputError: The value is of another type.
    """
    if not isinstance(value, kinds):
        article = "an" if type(value).__name__[0] in "aeiou" else "a"
        kind = "None" if value is None else f"{article} {type(value).__name__}"
        raise InputError(f"{name} is {kind}; {expected} is expected")


def split_random(name: str, pretrained: bool | None) -> tuple[str, bool | None]:
    """Split the prefix ``random:`` off the name of a model.

    Args:
        name: The name, with or without the prefix.
        pretrained: Whether the weights should be pretrained; None if nobody has said it.

    Returns:
        The name without the prefix, and ``pretrained``, which is False if there was one.

    Raises:
        InputError: The prefix asks for random weights, and ``pretrained`` is True.
    """
    if not name.startswith(RANDOM):
        return name, pretrained
    if pretrained:
        raise InputError(f"model {name!r} asks for random weights, and pretrained for others: choose one")
    return name.removeprefix(RANDOM), False
