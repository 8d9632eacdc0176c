"""The ranges of the constructors' arguments, by name: an argument means the same in every tower."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from plm_core import InputError
from plm_core.utils.text import shown

MOST = 2**20
"""The largest size or number of anything, so that a slip of the pen does not ask for all memory."""


def _whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= MOST


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_whole, value))
    return _whole(value) or pair


def _rate(value: Any) -> bool:
    return _real(value) and 0 <= value < 1


def _one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
    words = " or ".join([", ".join(map(repr, values[:-1])), repr(values[-1])])
    return (lambda value: isinstance(value, str | None) and value in values), words


# (test, what is allowed in words, names)
_RULES: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (
        _whole,
        f"a whole number from 1 to {MOST}",
        "patch_size width layers heads attn_pooler_heads in_chans context_length vocab_size",
    ),
    (
        lambda value: value is None or _whole(value),
        f"None or a whole number from 1 to {MOST}",
        "output_dim",
    ),
    (lambda value: value is None or _whole(value, 0), f"None or a whole number from 0 to {MOST}", "num_classes"),
    (_size, "a whole number of pixels, or (height, width),", "image_size"),
    (lambda value: value is None or _size(value), "a whole number of pixels, or (height, width),", "img_size"),
    (lambda value: _real(value) and 0 < value <= 1024, "a number above 0 and up to 1024", "mlp_ratio"),
    (lambda value: value is None or _real(value), "None or a finite number", "ls_init_value"),
    (_rate, "a number from 0 to less than 1", "drop_path_rate drop_rate"),
    (
        lambda value: _rate(value) or (isinstance(value, Sequence) and all(map(_rate, value))),
        "a number from 0 to less than 1, or one for each layer,",
        "drop_path",
    ),
    (
        lambda value: isinstance(value, bool),
        "True or False",
        "use_cls_token use_ln_pre use_ln_post use_abs_posemb use_rope2d ragged",
    ),
    (*_one_of("attn", "tok", "avg", "none"), "pool_type"),
    (*_one_of("map", "token", "avg", "mean", "", None), "global_pool"),
    (*_one_of("official", "timm"), "resampling"),
)
_BY_NAME = {name: (test, allowed) for test, allowed, names in _RULES for name in names.split()}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check arguments that have a range; others are ignored.

    Args:
        arguments: Arguments by name, for example ``locals()`` at the top of a constructor.

    Raises:
        InputError: An argument is out of its range.
    """
    for name, value in arguments.items():
        if name in _BY_NAME and not _BY_NAME[name][0](value):
            raise InputError(f"{name} {shown(repr(value), 60)} is not allowed: {_BY_NAME[name][1]} is")


def choice(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise an InputError unless ``value`` is one of the strings that are allowed for the argument ``name``."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} is {shown(repr(value), 60)}; {', '.join(map(repr, allowed))} are allowed")
