"""`GazeLLE`: a backbone that sees an image once, and a decoder that is asked about each person (arXiv 2412.09586)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gazelle.backbones import create_backbone
from gazelle.decoder import Decoder, Gaze, size_of
from plm_core import InputError


class GazeLLE(Decoder):
    """Gaze-LLE: images and head boxes -> a heatmap for each person, and whether the target is inside the frame.

    The backbone is frozen. `encode` and `decode` are the two halves of `forward`, to ask about more people later.

    Args:
        backbone: The name of a model of timm or of this hub, or a module with timm's interface for feature maps. Its
            classifier is not used.
        inout: Whether the model tells if a target is inside the frame.
        dim: Width of the decoder, divisible by 8.
        num_layers: Number of its transformer blocks.
        in_size: Height and width of the images.
        out_size: Height and width of the heatmaps.
        decoder_ln_eps: What LayerNorm adds to the variance in the decoder. The released weights were trained with 1e-5.
        positions: How stored positions of a ViT are resampled: "hub" as DINOv2 of torch.hub does, which the released
            weights were trained with, or "timm". None chooses "hub" for a DINOv2 that was created by name.
        frozen: Whether the backbone needs no gradients and stays in eval mode.
        **options: Keywords for a backbone by name, such as ``pretrained`` and ``in_chans``.

    Raises:
        InputError: A size does not fit.
        NotSupported: The backbone has no feature maps.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        inout: bool = False,
        dim: int = 256,
        num_layers: int = 3,
        in_size: int | tuple[int, int] = (448, 448),
        out_size: tuple[int, int] = (64, 64),
        decoder_ln_eps: float = 1e-5,
        positions: str | None = None,
        frozen: bool = True,
        **options: Any,
    ) -> None:
        height, width = size_of((in_size, in_size) if isinstance(in_size, int) else in_size, "in_size")
        if not isinstance(frozen, bool):
            raise InputError(f"frozen is {frozen!r}; True or False is expected")
        eyes = create_backbone(backbone, (height, width), positions, **options)
        super().__init__(eyes.width, eyes.grid((height, width)), inout, dim, num_layers, out_size, decoder_ln_eps)
        self.backbone = eyes
        self.in_size = (height, width)
        self.freeze(frozen)

    def freeze(self, frozen: bool = True) -> GazeLLE:
        """Set whether the backbone needs no gradients and stays in eval mode."""
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> GazeLLE:
        """Set the mode of the decoder, and of the backbone if it is not frozen."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Return the features of images: [B, 3, H, W] -> [B, C, h, w]."""
        if images.ndim != 4:
            raise InputError(f"images is {list(images.shape)}; [images, 3, height, width] is expected")
        features: Tensor = self.backbone(images)
        return features

    def forward(self, inputs: Mapping[str, Any] | Tensor) -> Gaze | Tensor:
        """Return where people look.

        Args:
            inputs: ``images`` [B, 3, H, W] and ``bboxes``, see `decode`. ``mask`` as well if the boxes are a tensor. Or
                images alone, each with one person without a box, as timm's models are called.

        Returns:
            See `decode`. For images alone the heatmaps, [B, h, w].
        """
        if isinstance(inputs, Tensor):
            heatmaps: Tensor = self.decode(self.encode(inputs), inputs.new_zeros(inputs.shape[0], 1, 4))["heatmap"]
            return heatmaps[:, 0]
        images, bboxes = inputs.get("images"), inputs.get("bboxes")
        if images is None or bboxes is None:
            raise InputError(f"inputs has {', '.join(inputs) or 'nothing'}; images and bboxes are expected")
        if not isinstance(bboxes, Tensor) and len(bboxes) != len(images):
            raise InputError(f"bboxes has {len(bboxes)} lists; one for each of the {len(images)} images is expected")
        return self.decode(self.encode(images), bboxes, inputs.get("mask"))
