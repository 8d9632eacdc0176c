"""Digests of named tensors, by which two models or two files are compared."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from plm_core.layouts import State
from plm_core.weights.checks import check_state, check_values, own_state


def digest(tensors: State) -> str:
    """Compute SHA-256 over the names, dtypes, shapes and bytes of tensors, sorted by name, as hex.

    Raises:
        WeightsError: A tensor has no bytes, or is sparse or of another odd kind.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(check_state(tensors, "the state dict").items()):
        check_values(name, tensor)
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return sha.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """Compute the `digest` of a model's state dict. It is the same on every device.

    Raises:
        InputError: It is no model, or has tensors that are not plain, such as quantized ones.
        WeightsError: The model is on the meta device.

    Example:
        >>> import timm
        >>> from plm_core import weights
        >>> model, other = timm.create_model("test_vit"), timm.create_model("test_vit")
        >>> weights.fingerprint(model) == weights.fingerprint(other)  # two random initialisations
        False
        >>> report = weights.load(other, model.state_dict())
        >>> weights.fingerprint(model) == weights.fingerprint(other)
        True
    """
    return digest(own_state(model))
