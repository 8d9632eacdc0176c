"""COCO's mean average precision of a detector, computed with pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Literal

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hiera.coco.batches import collate
from hiera.coco.datasets import DetectionDataset, Target
from hiera.coco.run_lengths import encode_mask, from_segmentation, mask_area
from plm_core import InputError
from plm_core.prediction.detection import run_detector
from plm_core.utils.progress import track


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: DetectionDataset,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    iou_types: Sequence[Literal["bbox", "segm"]] | None = None,
    limit: int | None = None,
    progress: str = "evaluating",
) -> dict[str, float]:
    """Score a detector as COCO does, on the scenes of a dataset without augmentation.

    Args:
        model: A detector that takes a list of images and returns a dict for each, as `hiera.detection.detector` does.
            It runs in eval mode, and its previous mode is restored afterwards.
        data: The dataset.
        batch_size: Number of images per forward pass. Images of different sizes never share one, so that the score
            does not depend on this number.
        num_workers: Number of processes that load images; with 0, this process loads them.
        iou_types: "bbox", "segm" or both; None for all that the model predicts and the data have.
        limit: Number of images to score, from the first; None for all.
        progress: Title of the progress bar.

    Returns:
        Fractions from 0 to 1: "box mAP@[.5:.95]", "box AP50", "box AP75", "box AP small", "box AP medium" and "box AP
        large" (areas below 32^2, below 96^2 and above; each only if the data have objects of that size) and
        "box AR@100"; and the same for "mask".

    Raises:
        InputError: The data have no objects, or masks are to be scored but the model or the data have none.

    Objects without a mask count for the boxes only. For masks they are regions in which nothing is scored, like crowds.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    indices = range(len(data) if limit is None else min(limit, len(data)))
    loader = DataLoader(_Scenes(data, indices), batch_size, collate_fn=collate, num_workers=num_workers)
    detections: list[dict[str, Any]] = []
    ids: list[Any] = []
    truth = data.annotations()
    drawn = any("segmentation" in o and not o["iscrowd"] for o in truth["annotations"])
    training = model.training
    model.eval()
    try:
        for items in track(loader, progress, len(loader)):
            predictions = run_detector(model, [image.to(device) for image in items["images"]])
            for prediction, target in zip(predictions, items["targets"], strict=True):
                ids.append(target["image_id"])
                _check_types(iou_types, prediction)
                iou_types = iou_types or (("bbox", "segm") if "masks" in prediction and drawn else ("bbox",))
                detections += _results(prediction, target["image_id"], "segm" in iou_types)
    finally:
        model.train(training)
    objects = [o for o in truth["annotations"] if not o["iscrowd"] and o["image_id"] in set(ids)]
    if not objects:
        raise InputError("data have no objects to detect (crowds do not count)")
    if "segm" in (iou_types or ()) and not drawn:
        raise InputError("iou_types has 'segm', but data have no masks")
    scores: dict[str, float] = {}
    for kind in iou_types or ():
        scores |= _score(truth, detections, ids, kind)
    return scores


class _Scenes(Dataset[tuple[Tensor, Target]]):
    def __init__(self, data: DetectionDataset, indices: range) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.data.scene(self.indices[index])


def _check_types(iou_types: Sequence[str] | None, prediction: Mapping[str, Tensor]) -> None:
    if iou_types and not set(iou_types) <= {"bbox", "segm"}:
        raise InputError(f"iou_types {tuple(iou_types)} is not allowed: 'bbox' and 'segm' are")
    if iou_types and "segm" in iou_types and "masks" not in prediction:
        raise InputError("iou_types has 'segm', but the model predicts no masks")


def _results(prediction: Mapping[str, Tensor], image_id: Any, masks: bool) -> list[dict[str, Any]]:
    """Return the detections of an image in COCO's form."""
    boxes = prediction["boxes"].cpu().tolist()
    rows = zip(boxes, prediction["labels"].tolist(), prediction["scores"].tolist(), strict=True)
    results = [
        {
            "image_id": image_id,
            "category_id": label,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        }
        for (x0, y0, x1, y1), label, score in rows
    ]
    if masks:
        for result, mask in zip(results, prediction["masks"].cpu() > 0.5, strict=True):
            result["segmentation"] = encode_mask(mask.reshape(mask.shape[-2:]))
    return results


def _with_masks(truth: dict[str, Any]) -> dict[str, Any]:
    """Turn each annotation without a mask into a crowd that fills its box, in which detections do not count."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    annotations = []
    for o in truth["annotations"]:
        if "segmentation" not in o:
            x, y, width, height = o["bbox"]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            o = {**o, "iscrowd": 1, "segmentation": from_segmentation([corners], *sizes[o["image_id"]])}
        annotations.append(o)
    return {**truth, "annotations": annotations}


def _score(truth: dict[str, Any], detections: list[dict[str, Any]], ids: list[Any], kind: str) -> dict[str, float]:
    truth = _with_masks(truth) if kind == "segm" else truth
    with redirect_stdout(StringIO()):
        results = []
        for number, row in enumerate(detections, 1):
            # A detection counts as small, medium or large by the area of its box or mask, whichever is scored.
            area = mask_area(row["segmentation"]) if kind == "segm" else row["area"]
            results.append({**row, "id": number, "area": area})
        run = COCOeval(_coco(truth), _coco({**truth, "annotations": results}), kind)
        run.params.imgIds = ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    word = {"bbox": "box", "segm": "mask"}[kind]
    ap = ("mAP@[.5:.95]", "AP50", "AP75", "AP small", "AP medium", "AP large")
    scores = {f"{word} {name}": float(value) for name, value in zip(ap, run.stats[:6], strict=True)}
    scores[f"{word} AR@100"] = float(run.stats[8])
    # pycocotools reports -1 for sizes of which the data have no object.
    return {name: value for name, value in scores.items() if value >= 0}


def _coco(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco
