"""Mask R-CNN and Cascade Mask R-CNN with the papers' settings.

The framework is torchvision's. The settings are those of the ViTDet recipe (arXiv 2203.16527), which both the Hiera and
the Absolute Win paper use.

Shapes: B batch, C channels, H, W rows and columns; boxes are x0, y0, x1, y1 in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from hiera import configs
from hiera.arguments import check_arguments
from hiera.detection.cascade import CascadeRoIHeads, ClassAgnosticPredictor
from hiera.detection.pyramid import Pyramid, SimplePyramid
from hiera.detection.regions import RegionHeads, RegionPool, RegionTransform
from hiera.detection.targets import check_images, check_targets
from hiera.hieradet import HieraDet
from hiera.vitdet import ViTDet
from plm_core import InputError


class Anchors(AnchorGenerator):
    """torchvision's anchor generator with the true strides of the levels.

    torchvision computes a stride as the image's side over the map's. At the pooled level this is wrong for sides that
    are not a multiple of the stride: 96 pixels over a map of 2 give 48 instead of 64.
    """

    def __init__(self, strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.strides = list(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, [N, 4], level after level."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        strides = [[torch.tensor(s, device=feature_maps[0].device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors([list(m.shape[-2:]) for m in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


class ProposalHead(RPNHead):
    """torchvision's proposal head with float32 outputs.

    The box coder rounds boxes to the precision of these outputs, which in bfloat16 would be 4 px.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the scores and the box deltas of the anchors of each level."""
        logits, deltas = super().forward(x)
        return [t.float() for t in logits], [t.float() for t in deltas]


class Detector(GeneralizedRCNN):
    """torchvision's two-stage detector with checks of its inputs."""

    def __init__(self, backbone: nn.Module, rpn: nn.Module, roi_heads: nn.Module, transform: nn.Module, k: int) -> None:
        super().__init__(backbone, rpn, roi_heads, transform)
        self.num_classes = k
        self.num_features: int = backbone.out_channels  # type: ignore[assignment]

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return the losses by name in training mode, and the detections in eval mode.

        Args:
            images: Images, float [3, height, width] from 0 to 1 each. Their sizes may differ.
            targets: A dict for each image, needed in training mode: ``boxes`` [N, 4] in pixels of the image, ``labels``
                int64 [N] from 1 to ``num_classes`` and, if the detector predicts masks, ``masks`` [N, height, width] of
                0 and 1. An object whose mask is 0 everywhere has no mask, and trains the boxes only.

        Returns:
            A dict of scalar losses, or a dict for each image, best detection first: ``boxes`` [N, 4] in pixels of the
            original image, ``labels`` [N], ``scores`` [N] and, if the detector predicts masks, ``masks``
            [N, 1, height, width], which are probabilities.

        Raises:
            InputError: An image or a target is not as described.
        """
        images = check_images(images, next(self.parameters()).dtype)
        if self.training:
            targets = check_targets(targets, images, self.num_classes, self.roi_heads.has_mask())
        return super().forward(images, targets)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return {f"backbone.trunk.{name}" for name, _ in self.backbone.trunk.named_parameters() if "pos_embed" in name}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's groups for layer-wise rates: embeddings first, then blocks, then parameters not pretrained."""
        del coarse
        return {
            "stem": r"^backbone\.trunk\.(?:pos_embed|patch_embed)",
            # relative positions are not pretrained either; timm puts parameters without a match last
            "blocks": r"^backbone\.trunk\.blocks\.(\d+)\.(?!attn\.rel_pos)",
        }

    def drop_masks(self) -> None:
        """Remove the mask branch. The detector then predicts boxes only, and needs no masks to train."""
        self.roi_heads.mask_roi_pool = self.roi_heads.mask_head = self.roi_heads.mask_predictor = None


def detector(
    trunk: HieraDet | ViTDet,
    num_classes: int,
    *,
    cascade: bool = False,
    masks: bool = True,
    channels: int = 256,
    img_size: int = 1024,
    anchors: Sequence[float] = (32, 64, 128, 256, 512),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    canonical: float = 224,
    rpn_convs: int = 2,
    rpn_iou: tuple[float, float] = (0.3, 0.7),
    rpn_samples: int = 256,
    rpn_positive: float = 0.5,
    rpn_before_nms: tuple[int, int] = (2000, 1000),
    rpn_after_nms: tuple[int, int] = (1000, 1000),
    rpn_nms: float = 0.7,
    box_size: int = 7,
    box_convs: Sequence[int] = (256,) * 4,
    box_fc: Sequence[int] = (1024,),
    box_samples: int = 512,
    box_positive: float = 0.25,
    mask_size: int = 14,
    mask_convs: Sequence[int] = (256,) * 4,
    score_threshold: float = 0.05,
    nms: float = 0.5,
    detections: int = 100,
) -> Detector:
    """Build a Mask R-CNN on a trunk with the papers' settings, or with ``cascade`` a Cascade Mask R-CNN.

    Args:
        trunk: A HieraDet, which gets a pyramid on its maps, or a ViTDet, which gets a simple pyramid on its last map.
        num_classes: Number of object classes, WITHOUT the background. Labels are 1 to ``num_classes``; 0 is background.
        cascade: Whether to use three box stages with rising IoU thresholds.
        masks: Whether to add the mask branch.
        channels: Number of channels of the pyramid.
        img_size: Length in pixels to which the longest side of an image is resized. Images are then padded at the
            bottom and right to the next size that the trunk takes.
        anchors: Side of the anchors in pixels for each level of the pyramid; the pooled level is the last.
        ratios: Ratios of height to width of the anchors.
        canonical: Side in pixels of a region that is pooled from the third level.
        rpn_convs: Number of hidden convolutions of the proposal head.
        rpn_iou: Two thresholds: anchors with an IoU below the first are background, and from the second on objects.
        rpn_samples: Number of anchors per image in the proposal loss.
        rpn_positive: Largest share of these anchors that are objects.
        rpn_before_nms: Number of proposals per level before non-maximum suppression, in training and in testing.
        rpn_after_nms: Total number of proposals after non-maximum suppression, in training and in testing.
        rpn_nms: IoU above which proposals are suppressed.
        box_size: Side of the pooled regions of the box head.
        box_convs: Channels of the box head's 3x3 convolutions, each with a LayerNorm.
        box_fc: Widths of the box head's linear layers.
        box_samples: Number of regions per image in the box loss.
        box_positive: Largest share of these regions that are objects.
        mask_size: Side of the pooled regions of the mask head; the side of a mask is twice that.
        mask_convs: Channels of the mask head's convolutions.
        score_threshold: Detections with a lower score are dropped.
        nms: IoU above which detections of a class are suppressed.
        detections: Largest number of detections per image.

    Returns:
        A detector, to be called with ``(images, targets)``.

    Raises:
        InputError: An argument is not allowed.
    """
    check_arguments(locals())
    if not num_classes:
        raise InputError(f"num_classes {num_classes} is not allowed: at least 1 is, not counting the background")
    backbone = SimplePyramid(trunk, channels) if isinstance(trunk, ViTDet) else Pyramid(trunk, channels)
    if len(anchors) != len(backbone.strides):
        raise InputError(f"anchors has {len(anchors)} sizes; the pyramid has {len(backbone.strides)} levels")
    rpn = RegionProposalNetwork(
        Anchors(backbone.strides, [(size,) for size in anchors], ratios),
        ProposalHead(channels, len(ratios), rpn_convs),
        fg_iou_thresh=rpn_iou[1],
        bg_iou_thresh=rpn_iou[0],
        batch_size_per_image=rpn_samples,
        positive_fraction=rpn_positive,
        pre_nms_top_n=dict(zip(("training", "testing"), rpn_before_nms, strict=True)),
        post_nms_top_n=dict(zip(("training", "testing"), rpn_after_nms, strict=True)),
        nms_thresh=rpn_nms,
    )
    strides = backbone.strides[:-1]
    common: dict[str, Any] = {
        "box_roi_pool": RegionPool(strides, box_size, canonical),
        "batch_size_per_image": box_samples,
        "positive_fraction": box_positive,
        "score_thresh": score_threshold,
        "nms_thresh": nms,
        "detections_per_img": detections,
    }
    if masks:
        common |= {
            "mask_roi_pool": RegionPool(strides, mask_size, canonical),
            "mask_head": MaskRCNNHeads(channels, list(mask_convs), 1, LayerNorm2d),
            "mask_predictor": MaskRCNNPredictor(mask_convs[-1], mask_convs[-1], num_classes + 1),
        }

    def box_head() -> nn.Module:
        return FastRCNNConvFCHead((channels, box_size, box_size), list(box_convs), list(box_fc), LayerNorm2d)

    heads: RegionHeads
    if cascade:
        stages = [(box_head(), ClassAgnosticPredictor(box_fc[-1], num_classes)) for _ in range(3)]
        heads = CascadeRoIHeads(stages, **common)
    else:
        heads = RegionHeads(
            box_head=box_head(),
            box_predictor=FastRCNNPredictor(box_fc[-1], num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            **common,
        )
    transform = RegionTransform(
        img_size, img_size, list(configs.DETECTION_MEAN), list(configs.DETECTION_STD), backbone.multiple
    )
    return Detector(backbone, rpn, heads, transform, num_classes)


def hiera_detector(
    trunk: Mapping[str, Any],
    num_classes: int = 80,
    in_chans: int = 3,
    img_size: int | Sequence[int] = 1024,
    drop_path_rate: float = 0.0,
    **settings: Any,
) -> Detector:
    """Build a detector on a HieraDet, with the keywords that every registered model takes.

    Args:
        trunk: Keywords of `hiera.HieraDet`.
        num_classes: Number of classes without the background.
        in_chans: Number of input channels. Only 3 is allowed, because torchvision's detectors normalise red, green and
            blue.
        img_size: Length in pixels to which the longest side of an image is resized, or height and width, of which the
            longer counts.
        drop_path_rate: Drop path rate of the trunk's last block.
        **settings: Keywords of `detector`.

    Raises:
        InputError: ``in_chans`` is not 3.
    """
    if in_chans != 3:
        raise InputError(f"in_chans {in_chans} is not allowed: a detector takes 3 channels")
    check_arguments(locals())
    if img_size is None:
        raise InputError("img_size None is not allowed: a number of pixels is")
    longest = img_size if isinstance(img_size, int) else max(img_size)
    return detector(HieraDet(**trunk, drop_path_rate=drop_path_rate), num_classes, img_size=longest, **settings)


def micro_detector(num_classes: int = 8, **settings: Any) -> Detector:
    """Build a Mask R-CNN of 0.43M parameters for the scenes of ``plm_core.shapes`` at 96 pixels.

    Args:
        num_classes: Number of classes without the background; the scenes have eight shapes.
        **settings: Keywords of `hiera_detector` that replace the micro model's.
    """
    return hiera_detector(configs.HIERADET["micro"], num_classes, **{**configs.MICRO_DETECTOR, **settings})
