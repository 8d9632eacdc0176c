"""Cascade R-CNN's box stages (arXiv 1712.00726), on torchvision's RoI heads.

Each stage refines the boxes of the stage before it and is trained with a higher IoU threshold. As in the common
implementation, the gradient that each stage sends back to the pooled features is divided by the number of stages.

Shapes: N regions of an image, R regions of all images, K classes without the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from hiera.detection.regions import RegionHeads, Sizes, Targets
from plm_core import InputError

# The IoU threshold of each stage.
IOUS = (0.5, 0.6, 0.7)
# The weights of the box deltas (x, y, width, height) in each stage. They grow because later stages correct less.
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


class ClassAgnosticPredictor(nn.Module):
    """A predictor of one score per class and a single box for all classes.

    Args:
        dim: Width of the box head's output.
        num_classes: Number of classes without the background, which becomes class 0.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(dim, num_classes + 1)
        self.bbox_pred = nn.Linear(dim, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R, dim] -> logits [R, K + 1], box deltas [R, 4]."""
        return self.cls_score(x), self.bbox_pred(x)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x unchanged, but multiply its gradient by the factor."""
    return x * factor + x.detach() * (1 - factor) if x.requires_grad else x


class CascadeRoIHeads(RegionHeads):
    """RoI heads with box stages of rising IoU thresholds.

    The mask branch is Mask R-CNN's and is trained on the first stage's regions.

    Args:
        stages: A box head and a `ClassAgnosticPredictor` for each stage.
        ious: IoU threshold of each stage. A region whose IoU with an object reaches it is matched to the object.
        weights: Weights of the box deltas x, y, width and height in each stage.
        **heads: Further keywords of torchvision's RoIHeads: pooling, sampling, thresholds and the mask branch.

    Raises:
        InputError: The numbers of stages, thresholds and weights differ.
    """

    def __init__(
        self,
        stages: Sequence[tuple[nn.Module, nn.Module]],
        ious: Sequence[float] = IOUS,
        weights: Sequence[tuple[float, float, float, float]] = WEIGHTS,
        **heads: Any,
    ) -> None:
        if not len(stages) == len(ious) == len(weights) > 0:
            counts = f"{len(stages)} stages, {len(ious)} ious and {len(weights)} weights"
            raise InputError(f"{counts}; the same number of each is expected")
        super().__init__(
            box_head=nn.ModuleList(head for head, _ in stages),
            box_predictor=nn.ModuleList(predictor for _, predictor in stages),
            fg_iou_thresh=ious[0],
            bg_iou_thresh=ious[0],
            bbox_reg_weights=weights[0],
            **heads,
        )
        self.ious = tuple(ious)
        self.coders = [BoxCoder(w) for w in weights]

    def box_losses(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        goals: list[Tensor],
        image_shapes: Sizes,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Return ``loss_classifier_1``, ``loss_box_reg_1``, ``loss_classifier_2`` and so on.

        The first stage takes the sampled boxes, which include the objects' own. Each later stage takes the boxes that
        the stage before it refined, and matches them again.
        """
        losses: dict[str, Tensor] = {}
        for stage, coder in enumerate(self.coders):
            if stage:
                boxes = [b[(b[:, 2:] > b[:, :2]).all(1)] for b in boxes]
                matches = [self._match(stage, b, t) for b, t in zip(boxes, targets, strict=True)]
                labels, goals = [label for label, _ in matches], coder.encode([goal for _, goal in matches], boxes)
            logits, deltas = self._stage(stage, features, boxes, image_shapes)
            losses |= _losses(stage + 1, logits, deltas, torch.cat(labels), torch.cat(list(goals)))
            boxes = self._refine(stage, deltas.detach(), boxes, image_shapes)
        return losses

    def detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes
    ) -> list[dict[str, Tensor]]:
        """Return detections with scores averaged over the stages and the boxes of the last stage."""
        boxes, scores = proposals, []
        for stage in range(len(self.coders)):
            logits, deltas = self._stage(stage, features, boxes, image_shapes)
            scores.append(logits.softmax(-1))
            boxes = self._refine(stage, deltas, boxes, image_shapes)
        mean = torch.stack(scores).mean(0).split([len(b) for b in boxes])
        return [self._select(b, s) for b, s in zip(boxes, mean, strict=True)]

    def _stage(
        self, stage: int, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor]:
        pooled = scale_gradient(self.box_roi_pool(features, boxes, image_shapes), 1 / len(self.coders))
        logits, deltas = self.box_predictor[stage](self.box_head[stage](pooled))
        return logits.float(), deltas.float()

    def _refine(self, stage: int, deltas: Tensor, boxes: list[Tensor], image_shapes: Sizes) -> list[Tensor]:
        refined = self.coders[stage].decode(deltas, boxes).view(-1, 4).split([len(b) for b in boxes])
        return [clip_boxes_to_image(b, shape) for b, shape in zip(refined, image_shapes, strict=True)]

    def _match(self, stage: int, boxes: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the label (0: IoU too low) and box of the object that each of the boxes [N, 4] overlaps most."""
        truth = target["boxes"].to(boxes.dtype)
        if not len(truth):
            return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device), boxes
        overlap, index = box_iou(truth, boxes).max(0)
        return target["labels"][index] * (overlap >= self.ious[stage]), truth[index]

    def _select(self, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """Return the detections of an image, best first, from its boxes [N, 4] and scores [N, K + 1]."""
        region, label = torch.where(scores[:, 1:] > self.score_thresh)
        boxes, scores, labels = boxes[region], scores[region, label + 1], label + 1
        keep = remove_small_boxes(boxes, 1e-2)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}


def _losses(number: int, logits: Tensor, deltas: Tensor, labels: Tensor, goals: Tensor) -> dict[str, Tensor]:
    objects = torch.where(labels > 0)[0]
    distance = F.smooth_l1_loss(deltas[objects], goals[objects], beta=1 / 9, reduction="sum")
    return {
        f"loss_classifier_{number}": F.cross_entropy(logits, labels),
        f"loss_box_reg_{number}": distance / labels.numel(),
    }
