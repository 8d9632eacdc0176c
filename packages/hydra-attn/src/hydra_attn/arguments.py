"""Checks of the tensors that attention is given, each with one line that names the argument."""

from __future__ import annotations

from torch import Tensor

from plm_core.errors import InputError


def check_queries(q: Tensor, k: Tensor, causal: bool = False) -> None:
    """Check that queries and keys belong together.

    Raises:
        InputError: They do not.
    """
    if q.ndim != 3 or k.ndim != 3 or (q.shape[0], q.shape[2]) != (k.shape[0], k.shape[2]):
        raise InputError(f"q is {list(q.shape)} and k is {list(k.shape)}; both are [B, T, D] of the same B and D")
    if causal and q.shape[1] != k.shape[1]:
        raise InputError(f"q has {q.shape[1]} tokens and k has {k.shape[1]}; causal attention needs as many of each")
    _check_alike("q", q, k)


def check_tokens(k: Tensor, v: Tensor, mask: Tensor | None, weights: Tensor | None) -> None:
    """Check keys, values and what there is for each token.

    Raises:
        InputError: Their shapes, dtypes or devices do not fit, or there are no tokens.
    """
    if k.ndim != 3 or k.shape != v.shape:
        raise InputError(f"k is {list(k.shape)} and v is {list(v.shape)}; both are [B, T, D]")
    if not k.shape[1]:
        raise InputError("k has no tokens")
    _check_alike("v", v, k)
    for name, per_token in (("mask", mask), ("weights", weights)):
        if per_token is not None and per_token.shape != k.shape[:2]:
            raise InputError(f"{name} is {list(per_token.shape)}; it has a value for each token, {list(k.shape[:2])}")


def _check_alike(name: str, x: Tensor, k: Tensor) -> None:
    if (x.dtype, x.device) != (k.dtype, k.device) or not x.is_floating_point():
        raise InputError(
            f"{name} is {x.dtype} on {x.device} and k is {k.dtype} on {k.device}; "
            "both are floats of one dtype and device"
        )
