"""The training of Gaze-LLE, from a dataset of people to a trained model (arXiv 2412.09586).

Shapes: B images, P people of all images, h x w cells of a heatmap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gazelle.boxes import Box, as_tensor, head_maps
from gazelle.data import collate_people
from gazelle.model import GazeLLE
from gazelle.recipes.tables import GazeConfig
from plm_core import InputError
from plm_core.training import Recipe, TrainResult, fit

INOUT = "inout"
"""A part of the names of all parameters that tell whether a target is inside, and of no others."""


class Looker(nn.Module):
    """A model that is asked about all people of a batch in one call. The model is the given one.

    Args:
        model: The model.
    """

    def __init__(self, model: GazeLLE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, boxes: Sequence[Sequence[Box]]) -> tuple[Tensor, Tensor | None]:
        """Return the heatmaps [P, h, w], and the probabilities that the targets are inside [P], in the boxes' order.

        Args:
            images: [B, 3, H, W].
            boxes: For each image a list of head boxes in fractions. A box that covers no cell is allowed.
        """
        return self.look(self.model.encode(images), boxes)

    def look(self, features: Tensor, boxes: Sequence[Sequence[Box]]) -> tuple[Tensor, Tensor | None]:
        """Return the same from the features of the images, [B, C, h, w]."""
        grid = (features.shape[2], features.shape[3])
        heads = head_maps(as_tensor([box for image in boxes for box in image]), grid).to(features.device)
        image = torch.tensor([number for number, people in enumerate(boxes) for _ in people])
        return self.model.look_at_all(features, heads, image)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return timm's patterns for two groups of parameters: all others, and above them those of in/out."""
        return {"others": rf"^(?!.*{INOUT})", INOUT: rf".*{INOUT}"}


def gaze_loss(model: nn.Module, batch: Mapping[str, Any], inout: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss of a batch and its named parts.

    The part ``heatmap`` is the mean binary cross-entropy of the cells, over people whose target is inside. It is 0 for
    a batch without any.

    Args:
        model: A `Looker`, or what wraps it.
        batch: As `gazelle.data.collate_people` returns it.
        inout: Whether to add the mean binary cross-entropy of the in/out scores of all people.
    """
    heatmaps, scores = model(batch["images"], batch["boxes"])
    return parts_of(heatmaps, scores if inout else None, batch)


def parts_of(heatmaps: Tensor, scores: Tensor | None, batch: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss of predictions and its named parts, see `gaze_loss`."""
    labels = batch["inout"]
    inside = labels == 1
    with torch.autocast(heatmaps.device.type, enabled=False):
        found = heatmaps.float()[inside]
        # the mean over no cells would be NaN
        parts = {"heatmap": F.binary_cross_entropy(found, batch["heatmaps"][inside]) if len(found) else found.sum()}
        if scores is not None:
            parts[INOUT] = F.binary_cross_entropy(scores.float(), labels.float())
    return torch.stack(list(parts.values())).sum(), parts


def train_gaze(model: GazeLLE, data: Dataset[Any], config: GazeConfig, **options: Any) -> TrainResult:
    """Train a model in place.

    With ``config.inout_lr`` the in/out parts are trained too. Otherwise they stay as they are.

    Args:
        model: The model.
        data: A dataset such as `gazelle.data.PersonSamples`.
        config: The settings.
        **options: Keywords of `plm_core.training.fit`. ``evaluate`` is called with a `Looker`.

    Returns:
        The result of `fit`, with the state dict of the model. The history has the parts of the loss.

    Raises:
        InputError: The model has no in/out head to train. Also as `fit` does.
    """
    inout = config.inout_lr is not None
    if inout and not model.has_inout:
        raise InputError(
            "the model has no in/out head to train: create one with inout=True, and load the weights of this one (for "
            "plm train: --model and --weights with its folder, and --model-kwargs inout=True)"
        )
    model.freeze(config.frozen)
    for name, parameter in model.named_parameters():
        if INOUT in name:
            parameter.requires_grad_(inout)

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        return gaze_loss(model, batch, inout)

    options.setdefault("collate", collate_people)
    result = fit(Looker(model), data, loss, recipe_of(config), **options)
    return TrainResult(plain(result.state), result.history, result.main)


def recipe_of(config: GazeConfig) -> Recipe:
    """Return the optimisation, with a learning rate of its own for the in/out parts.

    `Looker.group_matcher` makes two layers of the model, and ``layer_decay`` is the ratio of their rates.
    """
    recipe = config.recipe
    if config.inout_lr is None or config.inout_lr == recipe.lr:
        return recipe
    return replace(recipe, lr=config.inout_lr, layer_decay=recipe.lr / config.inout_lr)


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the model in the state dict of a `Looker`."""
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
