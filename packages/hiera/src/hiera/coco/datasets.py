"""Detection data in COCO's format, its score, its augmentation, and what a trainer asks for.

`CocoDetection` reads a folder of images and an instances file, `ShapesDetection` is the same of `plm_core.shapes`;
`write_coco` turns one into the other. `evaluate` is COCO's mean average precision. It needs the extra
``hiera[detection]``.

An item is an image, float [3, H, W] from 0 to 1, and a target: ``boxes`` float32 [N, 4] (x0, y0, x1, y1 in pixels),
``labels`` int64 [N] from 1, ``masks`` uint8 [N, H, W], ``area`` float32 [N], ``iscrowd`` int64 [N] and ``image_id``.
"""

from __future__ import annotations

import json
import logging
import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from hiera.configs import DETECTION_MEAN
from plm_core import InputError, MissingDependency, shapes
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.progress import track

try:
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ModuleNotFoundError as e:
    raise MissingDependency("COCO data and scores need pycocotools: install hiera[detection]") from e

_log = logging.getLogger(__name__)

Target = dict[str, Any]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]
OnBad = Literal["drop", "raise"]


class Detection(Dataset[tuple[Tensor, Target]], ABC):
    """What a dataset of boxes and masks offers.

    Attributes:
        names: Name of each label, from 1.
        transform: Called with image and target of an item; None for none.
    """

    names: dict[int, str]
    transform: Transform | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many images."""

    @abstractmethod
    def scene(self, index: int) -> tuple[Tensor, Target]:
        """An item before the transform."""

    @abstractmethod
    def annotations(self) -> dict[str, Any]:
        """The whole as COCO's instances format has it, with labels as category ids and annotation ids from 1."""

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target = self.scene(index)
        return (image, target) if self.transform is None else self.transform(image, target)


class CocoDetection(Detection):
    """Images and instances in COCO's format.

    Boxes are clipped to their image. An annotation is bad when its box is not four finite numbers, has a negative
    size, is empty or outside of the image, or when it has no mask that can be drawn. Crowds are no targets, but
    `evaluate` knows them.

    Args:
        images: Folder of the images.
        annotations: The instances file (JSON).
        transform: Called with image and target, for example `LargeScaleJitter`.
        masks: Whether targets have masks; without, annotations need none.
        on_bad: "drop" leaves bad annotations out, with one warning that counts them; "raise" refuses them.
        keep_empty: Whether images without targets stay in.

    Attributes:
        category_ids: The file's category id of labels 1, 2, ...: labels are contiguous, in the order of these ids.

    Raises:
        InputError: The file is not readable as such; an annotation names an unknown category or image; an image file
            is missing; an annotation is bad and ``on_bad`` is "raise". When read, an image is broken or has another
            size than the file says.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        transform: Transform | None = None,
        *,
        masks: bool = True,
        on_bad: OnBad = "drop",
        keep_empty: bool = True,
    ) -> None:
        if on_bad not in ("drop", "raise"):
            raise InputError(f"on_bad {on_bad!r} is not allowed: 'drop' and 'raise' are")
        self.folder, self.file, self.transform, self.masks = Path(images), Path(annotations), transform, masks
        content = _read(self.file)
        self.category_ids = sorted(category["id"] for category in content["categories"])
        labels = {category: label for label, category in enumerate(self.category_ids, 1)}
        self.names = {labels[c["id"]]: str(c.get("name", c["id"])) for c in content["categories"]}
        self.images = {image["id"]: image for image in content["images"]}
        self.objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        bad: list[tuple[Any, str]] = []
        for number, annotation in enumerate(content["annotations"], 1):
            name = annotation.get("id", f"number {number}")
            if annotation.get("category_id") not in labels:
                raise InputError(f"{self.file}: annotation {name} has unknown category {annotation.get('category_id')}")
            if annotation.get("image_id") not in self.images:
                raise InputError(f"{self.file}: annotation {name} has unknown image {annotation.get('image_id')}")
            found = _object(annotation, labels, self.images[annotation["image_id"]], masks)
            if isinstance(found, str):
                bad.append((name, found))
            else:
                self.objects[annotation["image_id"]].append({**found, "id": number})
        self._report(bad, len(content["annotations"]), on_bad)
        self.ids = [i for i in self.images if keep_empty or any(not o["iscrowd"] for o in self.objects[i])]
        self._check_files()

    def _report(self, bad: list[tuple[Any, str]], total: int, on_bad: OnBad) -> None:
        if bad and on_bad == "raise":
            raise InputError(f"{self.file}: annotation {bad[0][0]} has {bad[0][1]}; on_bad='drop' leaves such out")
        if bad:
            by_kind: dict[str, list[str]] = defaultdict(list)
            for name, kind in bad:
                by_kind[kind].append(str(name))
            kinds = "; ".join(
                f"{len(names)} with {kind} (id {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for kind, names in by_kind.items()
            )
            _log.warning("%s: left out %d of %d annotations: %s", self.file, len(bad), total, kinds)

    def _check_files(self) -> None:
        paths = [self.folder / self.images[i]["file_name"] for i in self.ids]
        there = {path for parent in {p.parent for p in paths} if parent.is_dir() for path in parent.iterdir()}
        if missing := [path for path in paths if path not in there]:
            raise InputError(f"image {missing[0]} of {self.file} is missing, with {len(missing) - 1} more")

    def __len__(self) -> int:
        return len(self.ids)

    def scene(self, index: int) -> tuple[Tensor, Target]:
        """An item before the transform."""
        entry = self.images[self.ids[index]]
        path = self.folder / entry["file_name"]
        try:
            with Image.open(path) as file:
                image = tvf.pil_to_tensor(file.convert("RGB"))
        except OSError as e:
            raise InputError(f"image {path} cannot be read: {e}") from e
        size = (entry["height"], entry["width"])
        if image.shape[1:] != size:
            raise InputError(f"image {path} is {image.shape[2]} x {image.shape[1]}, not {size[1]} x {size[0]}")
        objects = [o for o in self.objects[entry["id"]] if not o["iscrowd"]]
        masks = _decode([o["segmentation"] for o in objects], size) if self.masks else None
        boxes = torch.tensor([_corners(o["bbox"]) for o in objects]).reshape(-1, 4)
        area = [float(o["area"]) for o in objects]
        return _item(image, boxes, [o["category_id"] for o in objects], masks, area, entry["id"])

    def annotations(self) -> dict[str, Any]:
        """The whole as COCO's instances format has it; see `Detection`. Bad annotations are left out."""
        return {
            "info": {},
            "images": [self.images[i] for i in self.ids],
            "categories": [{"id": label, "name": name} for label, name in sorted(self.names.items())],
            "annotations": [{**o, "image_id": i} for i in self.ids for o in self.objects[i]],
        }


class ShapesDetection(Detection):
    """The scenes of `plm_core.shapes` for detection; the classes are its eight shapes.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels.
        count: How many scenes there are.
        seed: Which world to draw from.
        objects: The fewest and the most objects in a scene.
        background: "plain", "gradient" or "clutter".
        transform: Called with image and target.

    Raises:
        ValueError: An argument is out of range; the line names it.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 96,
        count: int = 1000,
        seed: int = 0,
        objects: tuple[int, int] = (1, 4),
        background: str = "clutter",
        transform: Transform | None = None,
    ) -> None:
        self.world = shapes.Images(split, size=size, count=count, seed=seed, objects=objects, background=background)
        self.names = dict(enumerate(shapes.SHAPES, 1))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.world)

    def scene(self, index: int) -> tuple[Tensor, Target]:
        """An item before the transform."""
        scene = self.world[index]
        masks = np.stack([o.mask for o in scene.objects]).astype(np.uint8)
        boxes = torch.tensor([o.box for o in scene.objects], dtype=torch.float32)
        labels = [shapes.SHAPES.index(o.shape) + 1 for o in scene.objects]
        image = torch.from_numpy(scene.image).permute(2, 0, 1)
        return _item(image, boxes, labels, torch.from_numpy(masks), masks.sum((1, 2)).tolist(), index % len(self))

    def annotations(self) -> dict[str, Any]:
        """The whole as COCO's instances format has it; see `Detection`. Draws every scene."""
        objects: list[dict[str, Any]] = []
        for index in range(len(self)):
            target = self.scene(index)[1]
            rows = zip(target["boxes"].tolist(), target["labels"].tolist(), target["masks"], strict=True)
            for (x0, y0, x1, y1), label, mask in rows:
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": index,
                        "category_id": label,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": float(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": _encode(mask),
                    }
                )
        side = self.world.size
        return {
            "info": {},
            "images": [
                {"id": i, "file_name": f"{i:012d}.png", "height": side, "width": side} for i in range(len(self))
            ],
            "categories": [{"id": label, "name": name} for label, name in self.names.items()],
            "annotations": objects,
        }


def write_coco(data: Detection, folder: str | Path) -> Path:
    """Write a dataset as ``images/*.png`` and ``instances.json``, without its transform.

    Each file is written whole or not at all, the instances last: where they are, all images are.

    Returns:
        The path of the instances.
    """
    content = data.annotations()
    folder = Path(folder)
    for index, entry in enumerate(track(content["images"], "writing images", len(data))):
        entry["file_name"] = f"{index:012d}.png"
        with atomic_path(folder / "images" / entry["file_name"]) as part:
            pixels = (data.scene(index)[0] * 255).round().to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(part, format="png")
    write_text(folder / "instances.json", json.dumps(content))
    return folder / "instances.json"


class _FixedCrop(v2.Transform):
    """A random window of at most ``size``; what lacks is added at the bottom and right, in the mean colour."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where the window is."""
        sides = v2.query_size(flat_inputs)
        top, left = (int(torch.randint(max(side - self.size, 0) + 1, ())) for side in sides)
        height, width = (min(side, self.size) for side in sides)
        return {"window": [top, left, height, width], "padding": [0, 0, self.size - width, self.size - height]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and pad one of image, boxes and masks."""
        fill = list(DETECTION_MEAN) if isinstance(inpt, tv_tensors.Image) else 0
        return tvf.pad(tvf.crop(inpt, *params["window"]), params["padding"], fill=fill)


class LargeScaleJitter:
    """Large-scale jitter (arXiv 2012.07177): flip, resize by a random factor, crop or pad to a fixed size.

    Boxes shrink to what is left of their object's mask, and objects with less than a pixel left are dropped.

    Args:
        size: Side of the result in pixels.
        scale: Least and largest size of the image's longer side over ``size``.
    """

    def __init__(self, size: int, scale: tuple[float, float] = (0.1, 2.0)) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise InputError(f"scale {scale} is not allowed: (least, largest), both more than 0")
        self.geometry = v2.Compose(
            [v2.RandomHorizontalFlip(), v2.ScaleJitter((size, size), scale_range=scale), _FixedCrop(size)]
        )

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """[3, H, W] and its target -> [3, size, size] and the target that fits it."""
        image, target = self.geometry(image, target)
        boxes = target["boxes"]
        if "masks" in target:
            boxes = tv_tensors.wrap(_tight(target["masks"]), like=boxes)
            target["area"] = target["masks"].sum((1, 2)).float()
        else:
            target["area"] = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        keep = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        target["boxes"] = boxes
        rows = {k: target[k] for k in ("boxes", "labels", "masks", "area", "iscrowd") if k in target}
        for name, value in rows.items():
            chosen = value[keep]
            target[name] = tv_tensors.wrap(chosen, like=value) if isinstance(value, tv_tensors.TVTensor) else chosen
        return image, target


def collate(batch: Sequence[tuple[Tensor, Target]]) -> dict[str, list[Any]]:
    """Items -> ``images`` and ``targets``, lists of plain tensors, since sizes differ."""

    def plain(value: Any) -> Any:
        return value.as_subclass(Tensor) if isinstance(value, Tensor) else value

    return {
        "images": [plain(image) for image, _ in batch],
        "targets": [{name: plain(value) for name, value in target.items()} for _, target in batch],
    }


def loss(model: nn.Module, batch: Mapping[str, list[Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of a detector's losses for a batch of `collate`, and its parts by name; for ``plm_core.training``."""
    device = next(model.parameters()).device
    parts = model([image.to(device) for image in batch["images"]], [_to(t, device) for t in batch["targets"]])
    return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: Detection,
    *,
    batch: int = 1,
    workers: int = 0,
    iou_types: Sequence[Literal["bbox", "segm"]] | None = None,
    limit: int | None = None,
    progress: str = "evaluating",
) -> dict[str, float]:
    """COCO's scores of a detector on a dataset's untransformed scenes.

    Args:
        model: Called with a list of images, gives a dict each, as `hiera.detection.detector` does. It is put into eval
            mode and back.
        data: The dataset.
        batch: Images at once.
        workers: Processes that load them.
        iou_types: "bbox", "segm" or both; None for what the model gives.
        limit: Only the first so many images; None for all.
        progress: What the bar says.

    Returns:
        "box mAP@[.5:.95]", "box AP50", "box AP75", "box AP small", "medium" and "large" (areas below 32^2, below 96^2
        and above, where there are such), "box AR@100", and the same for "mask"; fractions from 0 to 1.

    Raises:
        InputError: The data have no object; or masks are asked for and the model gives none.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    chosen = range(len(data) if limit is None else min(limit, len(data)))
    loader = DataLoader(_Scenes(data, chosen), batch, collate_fn=collate, num_workers=workers)
    found: list[dict[str, Any]] = []
    ids: list[Any] = []
    training = model.training
    model.eval()
    try:
        for items in track(loader, progress, len(loader)):
            for prediction, target in zip(
                model([i.to(device) for i in items["images"]]), items["targets"], strict=True
            ):
                ids.append(target["image_id"])
                _check_types(iou_types, prediction)
                iou_types = iou_types or (("bbox", "segm") if "masks" in prediction else ("bbox",))
                found += _results(prediction, target["image_id"], "segm" in iou_types)
    finally:
        model.train(training)
    truth = data.annotations()
    objects = [o for o in truth["annotations"] if not o["iscrowd"] and o["image_id"] in set(ids)]
    if not objects:
        raise InputError("data have no object to be found")
    if "segm" in (iou_types or ()) and not all("segmentation" in o for o in objects):
        raise InputError("iou_types has 'segm', but data have no masks")
    scores: dict[str, float] = {}
    for kind in iou_types or ():
        scores |= _score(truth, found, ids, kind)
    return scores


class _Scenes(Dataset[tuple[Tensor, Target]]):
    def __init__(self, data: Detection, chosen: range) -> None:
        self.data, self.chosen = data, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.data.scene(self.chosen[index])


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as JSON: {e}") from e
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; COCO's instances format is an object")
    needed = {"images": {"id", "file_name", "height", "width"}, "annotations": set(), "categories": {"id"}}
    for part, keys in needed.items():
        rows = content.get(part)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: {part!r} must be a list of objects, as in COCO's instances format")
        for number, row in enumerate(rows):
            if lacking := sorted(keys - row.keys()):
                raise InputError(f"{path}: {part}[{number}] lacks {', '.join(lacking)}")
        ids = Counter(row["id"] for row in rows if keys)
        if twice := [i for i, count in ids.items() if count > 1]:
            raise InputError(f"{path}: {part} has the id {twice[0]} more than once")
    return content


def _object(
    annotation: dict[str, Any], labels: Mapping[Any, int], image: Mapping[str, Any], masks: bool
) -> dict[str, Any] | str:
    """An annotation as `Detection.annotations` has it, but for ids; or why it is bad."""
    box = annotation.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box)
    if not numbers or not all(math.isfinite(n) for n in box or ()):
        return "no box of four finite numbers"
    x, y, width, height = box  # type: ignore[misc]
    if width < 0 or height < 0:
        return "a negative size"
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, image["width"]), min(y + height, image["height"])
    if width and height and (x0 >= x1 or y0 >= y1):
        return "a box outside of its image"
    # float32, in which boxes are trained, may make nothing of a tiny box
    if not (np.float32(x0) < np.float32(x1) and np.float32(y0) < np.float32(y1)):
        return "an empty box"
    segmentation = _rle(annotation.get("segmentation"), image["height"], image["width"])
    if masks and segmentation is None:
        return "no mask that can be drawn"
    area = annotation.get("area")
    return {
        "category_id": labels[annotation["category_id"]],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": area if isinstance(area, int | float) and math.isfinite(area) else (x1 - x0) * (y1 - y0),
        "iscrowd": int(annotation.get("iscrowd", 0)),
        **({"segmentation": segmentation} if segmentation is not None else {}),
    }


def _rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Polygons or run lengths -> compressed run lengths; None for what is neither."""
    try:
        if isinstance(segmentation, list):
            # pycocotools takes four numbers for a box
            polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()]
            return rle.merge(rle.frPyObjects(polygons, height, width)) if polygons else None
        if not isinstance(segmentation, dict) or list(segmentation["size"]) != [height, width]:
            return None
        if isinstance(segmentation["counts"], list):
            found = rle.frPyObjects(segmentation, height, width)
        else:
            found = {"size": [height, width], "counts": segmentation["counts"]}
        rle.decode(found)  # now rather than in the middle of a training
        return found
    except (KeyError, TypeError, ValueError):
        return None


def _encode(mask: Tensor) -> dict[str, Any]:
    """A mask [H, W] -> run lengths that JSON can hold."""
    coded = rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def _decode(masks: list[dict[str, Any]], size: tuple[int, int]) -> Tensor:
    if not masks:
        return torch.zeros(0, *size, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(rle.decode(masks).transpose(2, 0, 1)))


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _item(
    image: Tensor, boxes: Tensor, labels: list[int], masks: Tensor | None, area: list[float], image_id: Any
) -> tuple[Tensor, Target]:
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes.float(), format="XYXY", canvas_size=tuple(image.shape[1:])),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "area": torch.tensor(area, dtype=torch.float32),
        "iscrowd": torch.zeros(len(labels), dtype=torch.int64),
        "image_id": image_id,
    }
    if masks is not None:
        target["masks"] = tv_tensors.Mask(masks)
    return tv_tensors.Image(image.float() / 255), target


def _tight(masks: Tensor) -> Tensor:
    """The box around each mask [N, H, W]; zeros around an empty one."""
    boxes = torch.zeros(len(masks), 4)
    for i, mask in enumerate(masks.as_subclass(Tensor)):
        y, x = torch.where(mask)
        if len(y):
            boxes[i] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return boxes


def _to(target: Target, device: torch.device) -> Target:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()}


def _check_types(iou_types: Sequence[str] | None, prediction: Mapping[str, Tensor]) -> None:
    if iou_types and not set(iou_types) <= {"bbox", "segm"}:
        raise InputError(f"iou_types {tuple(iou_types)} is not allowed: 'bbox' and 'segm' are")
    if iou_types and "segm" in iou_types and "masks" not in prediction:
        raise InputError("iou_types has 'segm', but the model gives no masks")


def _results(prediction: Mapping[str, Tensor], image_id: Any, masks: bool) -> list[dict[str, Any]]:
    """Detections of an image in COCO's form."""
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
            result["segmentation"] = _encode(mask.reshape(mask.shape[-2:]))
    return results


def _score(truth: dict[str, Any], found: list[dict[str, Any]], ids: list[Any], kind: str) -> dict[str, float]:
    with redirect_stdout(StringIO()):
        results = []
        for number, row in enumerate(found, 1):
            # the size classes are by box or by mask, as what is scored
            area = float(rle.area(row["segmentation"])) if kind == "segm" else row["area"]
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
    # pycocotools says -1 where there is nothing to be found
    return {name: value for name, value in scores.items() if value >= 0}


def _coco(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco
