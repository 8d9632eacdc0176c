"""The ranges of the constructors' arguments, by name: an argument means the same in every tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plm_core.utils.ranges import MOST, Ranges, rate, real, whole


def _size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(whole, value))
    return whole(value) or pair


def _one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
    words = " or ".join([", ".join(map(repr, values[:-1])), repr(values[-1])])
    return (lambda value: isinstance(value, str | None) and value in values), words


_RANGES = (
    (
        whole,
        f"a whole number from 1 to {MOST}",
        "patch_size width layers heads attn_pooler_heads in_chans context_length vocab_size",
    ),
    (
        lambda value: value is None or whole(value),
        f"None or a whole number from 1 to {MOST}",
        "output_dim",
    ),
    (lambda value: value is None or whole(value, 0), f"None or a whole number from 0 to {MOST}", "num_classes"),
    (_size, "a whole number of pixels, or (height, width),", "image_size"),
    (lambda value: value is None or _size(value), "a whole number of pixels, or (height, width),", "img_size"),
    (lambda value: real(value) and 0 < value <= 1024, "a number above 0 and up to 1024", "mlp_ratio"),
    (lambda value: value is None or real(value), "None or a finite number", "ls_init_value"),
    (rate, "a number from 0 to less than 1", "drop_path_rate drop_rate"),
    (
        lambda value: rate(value) or (isinstance(value, Sequence) and all(map(rate, value))),
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
check_arguments = Ranges(_RANGES).check
