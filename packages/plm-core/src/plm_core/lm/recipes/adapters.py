"""Low-rank adapters of a decoder (arXiv 2106.09685) by peft, and their sum with the weights that they adapt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plm_core.errors import InputError, MissingDependency
from plm_core.lm.recipes.tables import StageConfig

BASE, A, B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""peft's names for the layer that is adapted, and for the two factors of an adapter."""


def add_adapters(decoder: nn.Module, config: StageConfig) -> None:
    """Put adapters into a decoder, in place. All its other weights are frozen.

    Raises:
        InputError: The decoder has none of the layers.
        MissingDependency: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as e:
        raise MissingDependency("adapters (lora_rank) need peft: install plm-core[lm]") from e
    targets = [name for name, _ in decoder.named_modules() if name.rpartition(".")[2] in config.lora_targets]
    if not targets:
        raise InputError(
            f"lora_targets {config.lora_targets} is not allowed: the decoder, a {type(decoder).__name__}, has no such "
            "layers"
        )
    decoder.requires_grad_(False)
    settings = LoraConfig(r=config.lora_rank or 1, lora_alpha=config.lora_alpha, target_modules=targets)
    inject_adapter_in_model(settings, decoder)


def merge(state: Mapping[str, Tensor], config: StageConfig) -> dict[str, Tensor]:
    """Return a state dict in which each adapter is added to the weight that it adapts."""
    scale = config.lora_alpha / (config.lora_rank or 1)
    merged = {}
    for name, value in state.items():
        if name.endswith((A, B)):
            continue
        prefix, base, last = name.rpartition(BASE)
        if base and last == "weight":
            change = scale * (state[prefix + B].float() @ state[prefix + A].float())
            value = (value.float() + change).to(value.dtype)
        merged[f"{prefix}.{last}" if base else name] = torch.as_tensor(value)
    return merged
