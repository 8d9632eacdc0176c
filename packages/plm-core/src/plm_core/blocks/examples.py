"""The example of a block adapter: a small model of its family, an input for it, and the tensor that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import NotSupported
from plm_core.hookspecs import BlockAdapter
from plm_core.models import SOURCES, create_model
from plm_core.utils.references import resolve
from plm_core.utils.seeding import seeded_weights

OUTPUT_FIELDS = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
"""The fields of a transformers output that may hold the result. Those without a token dimension come first."""


def make(adapter: BlockAdapter) -> tuple[nn.Module, Tensor]:
    """Build the example model of an adapter in eval mode, and an input batch of two; the same at every call.

    Raises:
        MissingDependency: The library that defines the model is not installed.
    """
    name, options = adapter.example
    module, sep, _ = name.partition(":")
    is_reference = sep and module.lower() not in SOURCES  # "module:function", not "hf-hub:org/name"
    with seeded_weights(0):
        model: Any = resolve(name)(**options) if is_reference else create_model(name, **options)
        for parameter in model.parameters():  # a layer that is zero at the start would hide errors before it
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        size = model.pretrained_cfg["input_size"] if adapter.input_size is None else adapter.input_size
        return model.eval(), torch.rand(2, *size)


def tensor_of(output: Any) -> Tensor:
    """Return the tensor in the output of a model: the output itself, or the most pooled field of a transformers output.

    Raises:
        NotSupported: The output has no such tensor.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for field in OUTPUT_FIELDS:
            tensor = output.get(field)
            if isinstance(tensor, Tensor):
                return tensor
    raise NotSupported(f"the output is a {type(output).__name__} with none of the tensors {', '.join(OUTPUT_FIELDS)}")
