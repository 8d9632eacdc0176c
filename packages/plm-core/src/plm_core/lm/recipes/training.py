"""The training of a language model that sees, from a dataset of conversations to trained weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from plm_core.lm.data import Sample, pack
from plm_core.lm.documents import Learner
from plm_core.lm.model import PerceptionLM
from plm_core.lm.recipes.adapters import add_adapters, merge
from plm_core.lm.recipes.tables import StageConfig
from plm_core.models import input_of
from plm_core.training import TrainResult, fit


def train_lm(model: PerceptionLM, data: Dataset[Sample], config: StageConfig, **options: Any) -> TrainResult:
    """Train a model in place, on rows without padding. With ``config.lora_rank`` the adapters stay in it.

    Args:
        model: The model.
        data: A dataset such as `plm_core.lm.data.ConversationSamples`.
        config: The settings.
        **options: Keywords of `plm_core.training.fit`. ``evaluate`` is called with a `Learner`.

    Returns:
        The result of `fit`, with the state dict of the model. It has no adapters: they are added to the weights.

    Raises:
        InputError: The decoder has no layers for adapters. Also as `fit` does.
        NotSupported: The decoder cannot attend within documents.
    """
    freeze(model, config)
    if config.recompute:
        model.set_grad_checkpointing()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    learner = Learner(model, chunk_size(model) if several or config.trained == "projector" else None)
    options.setdefault("collate", pack)
    result = fit(learner, data, loss, config.recipe, **options)
    state = plain(result.state)
    return TrainResult(merge(state, config) if config.lora_rank else state, result.history, result.main)


def loss(learner: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the mean cross-entropy over all targets of a packed row."""
    value: Tensor = learner(batch)
    return value


def freeze(model: PerceptionLM, config: StageConfig) -> None:
    """Let the parts learn that a configuration names, and no others."""
    model.requires_grad_(config.trained == "all" and config.lora_rank is None)
    model.vision.projector.requires_grad_(True)
    if config.lora_rank is not None:
        add_adapters(model.decoder, config)


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the model in the state dict of a `Learner`."""
    return {name.removeprefix("model."): value for name, value in state.items()}


def chunk_size(model: PerceptionLM) -> int:
    """Return the side in pixels of the chunks that a model was built for."""
    tower = model.vision.tower
    sizes = (getattr(tower, "image_size", None), getattr(getattr(tower, "patch_embed", None), "img_size", None))
    size: Any = next((size for size in sizes if size is not None), None) or input_of(model).size[1:]
    return int(size[0])
