"""The option ``fast`` of commands and functions that load models: `apply` for every model that has layers for it."""

from __future__ import annotations

import torch
from torch import nn

from plm_core import transforms
from plm_core.errors import InputError, NotSupported
from plm_core.packing.transform import NAME


def check_fast(device: torch.device | str, dtype: str = "fp32") -> None:
    """Check that models which run on a device in a precision can be fast.

    Raises:
        InputError: The device is not the CPU, or the precision is not fp32.
    """
    if torch.device(device).type != "cpu":
        raise InputError(f"fast is for the CPU, and device is {device}: leave out fast, or choose device cpu")
    if dtype != "fp32":
        raise InputError(f"fast is for dtype fp32, and dtype is {dtype}: leave out one of them")


def make_fast(model: nn.Module) -> str:
    """Apply the transform ``packed`` to a model on the CPU, unless it is applied already.

    A model without a layer that can be packed stays as it is: its answers would be the same.

    Returns:
        Why no layer can be packed, or an empty text.
    """
    if NAME in transforms.applied_to(model):
        return ""
    try:
        transforms.apply(model, NAME)
    except NotSupported as e:
        return f"fast changes nothing: {e}"
    return ""
