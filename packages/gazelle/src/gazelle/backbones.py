"""What a decoder asks of a backbone: one feature map of an image. Any model with timm's interface has it.

Shapes: B images, C channels of the features, h x w their grid.
"""

from __future__ import annotations

from typing import Any

from timm.models.hiera import Hiera
from timm.models.hieradet_sam2 import HieraDet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from gazelle.dinov2 import HubVisionTransformer, resample_as_hub
from plm_core import InputError, NotSupported, create_model
from plm_core.utils.ranges import check_choice

POSITIONS = ("hub", "timm")
DINOV2 = "dinov2"


class Backbone(nn.Module):
    """A model that gives feature maps, as ``model``.

    Args:
        model: A model with timm's ``forward_intermediates`` and ``feature_info``.
        in_size: Height and width of the images.
        positions: "hub" to resample the positions of a timm VisionTransformer by the rule of torch.hub's DINOv2, "timm"
            for the model's own way. None chooses "hub" for a DINOv2, by the name of its architecture.

    Raises:
        NotSupported: The model has no feature maps, or positions that the hub's rule is not for.
        InputError: The size does not fit the patches.
    """

    def __init__(self, model: nn.Module, in_size: tuple[int, int], positions: str | None = None) -> None:
        super().__init__()
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
            raise NotSupported(
                f"backbone is a {type(model).__name__} without forward_intermediates and feature_info, by which timm's "
                "models give feature maps"
            )
        if isinstance(model, Hiera | HieraDet):
            raise NotSupported(
                f"backbone is a {type(model).__name__} of timm, which has no normalized feature maps; hiera_image_* of "
                "the package hiera have them"
            )
        self.model: Any = model
        facts: Any = model.feature_info
        last = facts[-1] if isinstance(facts, list) else facts.get_dicts()[-1]
        self.width: int = last["num_chs"]
        self.reduction: int = last["reduction"]
        self._place(in_size, positions or ("hub" if is_dinov2(model) else "timm"))

    def _place(self, in_size: tuple[int, int], positions: str) -> None:
        """Let the model take images of this size."""
        check_choice("positions", positions, POSITIONS)
        if any(side % self.reduction for side in in_size):
            raise InputError(f"in_size is {in_size}; multiples of {self.reduction}, as of the backbone, are expected")
        if positions == "hub":
            if not isinstance(self.model, VisionTransformer) or self.model.pos_embed is None:
                raise NotSupported(
                    f"positions='hub' is for ViTs with absolute positions, not {type(self.model).__name__}"
                )
            if not isinstance(self.model, HubVisionTransformer):
                resample_as_hub(self.model)
        elif not getattr(self.model, "dynamic_img_size", False) and hasattr(self.model, "set_input_size"):
            self.model.set_input_size(in_size)

    def grid(self, in_size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the feature map of an image of this size."""
        return in_size[0] // self.reduction, in_size[1] // self.reduction

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalized features of the last block: [B, 3, H, W] -> [B, C, h, w]."""
        maps: list[Tensor] = self.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        features = maps[-1]
        if features.shape[1] != self.width:
            raise NotSupported(
                f"backbone is a {type(self.model).__name__} whose feature_info has {self.width} channels, where its "
                f"feature map has {features.shape[1]}"
            )
        return features


def is_dinov2(model: nn.Module) -> bool:
    """Return whether a model was created by the name of a DINOv2."""
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or ""
    return DINOV2 in architecture


def create_backbone(
    backbone: str | nn.Module, in_size: tuple[int, int], positions: str | None, **options: Any
) -> Backbone:
    """Return a backbone by name, without its classifier, or for a module.

    Args:
        backbone: A name for `plm_core.create_model`, or a module.
        in_size: See `Backbone`.
        positions: See `Backbone`.
        **options: Keywords of `plm_core.create_model`, such as ``pretrained``. They are for a name alone.

    Raises:
        InputError: There are keywords beside a module, or see `Backbone`.
        NotSupported: See `Backbone`.
    """
    if isinstance(backbone, str):
        backbone = create_model(backbone, num_classes=0, **options)
    elif options:
        raise InputError(f"{', '.join(options)} cannot be given with a backbone that is a module; it is for a name")
    return Backbone(backbone, in_size, positions)
