"""The example of a block adapter: a small model of its family, what it eats, and the tensor it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import NotSupported
from plm_core.hookspecs import BlockAdapter
from plm_core.models import SOURCES, create_model
from plm_core.utils.references import resolve

ANSWERS = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
"""Fields of transformers' outputs, those without a token dimension first."""


def make(adapter: BlockAdapter) -> tuple[nn.Module, Tensor]:
    """The adapter's example in eval mode, and a batch of two for it; the same at every call.

    Raises:
        MissingDependency: The library that has the model is not installed.
    """
    name, options = adapter.example
    module, sep, _ = name.partition(":")
    elsewhere = sep and module.lower() not in SOURCES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = resolve(name)(**options) if elsewhere else create_model(name, **options)
        for parameter in model.parameters():  # a head that starts at zero would hide what happens before it
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        size = model.pretrained_cfg["input_size"] if adapter.input_size is None else adapter.input_size
        return model.eval(), torch.rand(2, *size)


def tensor_of(answer: Any) -> Tensor:
    """The tensor in what a model answers: itself, or the most pooled one of a transformers output.

    Raises:
        NotSupported: There is none.
    """
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        for field in ANSWERS:
            if isinstance(answer.get(field), Tensor):
                found: Tensor = answer[field]
                return found
    raise NotSupported(f"the answer is a {type(answer).__name__} with none of {', '.join(ANSWERS)}, so no one tensor")
