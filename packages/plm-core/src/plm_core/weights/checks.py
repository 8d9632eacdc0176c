"""Checks of the tensors of a source and of a model, made before anything is copied."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import InputError, WeightsError
from plm_core.layouts import State
from plm_core.utils.arguments import check_type
from plm_core.utils.text import shown


def check_state(state: Any, what: str) -> dict[str, Tensor]:
    """Return ``state`` as a dict, or raise a WeightsError that names ``what`` unless it maps names to plain tensors."""
    if not isinstance(state, Mapping):
        raise WeightsError(f"{what} is not a dict of tensors by name (but a {type(state).__name__})")
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise WeightsError(f"{what} is not a dict of tensors by name ({shown(reprlib.repr(key))})")
        if fault := _fault(value):
            raise WeightsError(f"{what} has {shown(key)}, which is {fault}; a plain dense tensor is expected")
    return dict(state)


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model.

    Raises:
        InputError: It is no model, or has tensors that are not plain, such as quantized ones.
    """
    check_type("model", model, nn.Module, "an nn.Module")
    state: dict[str, Tensor] = model.state_dict()
    for key, value in state.items():
        if fault := _fault(value):
            raise InputError(
                f"model {type(model).__name__} has {key}, which is {fault}; plain dense tensors are needed"
            )
    return state


def check_values(key: str, value: Tensor) -> None:
    """Raise a WeightsError if a tensor is on the meta device, where it has no values."""
    if value.is_meta:
        raise WeightsError(f"{shown(key)} is on the meta device and has no values")


def check_kinds(mapped: State, own: State) -> None:
    """Check that tensors have values, of the kind of number that the model's tensors are.

    Args:
        mapped: Tensors by the model's own keys.
        own: The model's own tensors.

    Raises:
        WeightsError: A tensor is on the meta device, or of another kind.
    """
    for key in mapped.keys() & own.keys():
        value = mapped[key]
        check_values(key, value)
        if _kind(value) != _kind(own[key]):
            raise WeightsError(f"{key} is {value.dtype} in the source and {own[key].dtype} in the model")


def check_range(mapped: State, own: State) -> None:
    """Check that the values of tensors stay finite, and integers the same, in the dtypes of the model's tensors.

    Raises:
        WeightsError: The dtype of the model cannot hold a value, such as 1e300 as float32.
    """
    for key, value in mapped.items():
        dtype = own[key].dtype
        if value.dtype == dtype or value.dtype == torch.bool:
            continue
        back = value.to(dtype).to(value.dtype)
        lost = back != value if _kind(value) == "integer" else ~back.isfinite() & value.isfinite()
        if lost.any():
            example = value[lost][0].item()
            raise WeightsError(f"{key} has {example!r} in the source, which {dtype} in the model cannot hold")


def _fault(value: object) -> str | None:
    """Say why a value is not a plain dense tensor, or return None if it is one."""
    if type(value) not in (Tensor, nn.Parameter):  # also a tensor without a shape, and one spread over processes
        return f"a {type(value).__name__}"
    assert isinstance(value, Tensor)
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return "sparse"
    return "quantized" if value.is_quantized else None


def _kind(value: Tensor) -> str:
    if value.is_floating_point():
        return "float"
    if value.is_complex():
        return "complex"
    return "bool" if value.dtype == torch.bool else "integer"
