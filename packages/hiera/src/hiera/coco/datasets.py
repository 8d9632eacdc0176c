"""Datasets of boxes and masks: a folder in COCO's format, and the scenes of `plm_core.shapes` in the same form."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from hiera.coco.instances import check_annotation, read_instances
from hiera.coco.run_lengths import decode_masks, encode_mask
from plm_core import InputError, shapes
from plm_core.utils.images import open_image, pixels_of

_log = logging.getLogger(__name__)

Target = dict[str, Any]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]
OnBad = Literal["drop", "raise"]


class DetectionDataset(Dataset[tuple[Tensor, Target]], ABC):
    """A dataset of boxes and masks.

    Attributes:
        names: Name of each label, from 1.
        transform: Function that augments the image and target of each item; None for no augmentation.
    """

    names: dict[int, str]
    transform: Transform | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def scene(self, index: int) -> tuple[Tensor, Target]:
        """Return an item without augmentation."""

    @abstractmethod
    def annotations(self) -> dict[str, Any]:
        """Return all annotations in COCO's instances format, with labels as category ids and annotation ids from 1."""

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target = self.scene(index)
        return (image, target) if self.transform is None else self.transform(image, target)


class CocoDetection(DetectionDataset):
    """A dataset of images and instances in COCO's format.

    Images are read as everywhere, see `plm_core.utils.images`. Sizes, boxes and masks refer to the image as a viewer
    shows it, which is turned as its EXIF data say. Boxes are clipped to their image. An annotation is bad if its box is
    not four finite numbers, has a negative size, is empty or lies outside the image. An object without a mask that can
    be drawn gets an empty mask, and a warning counts such objects. Crowds are not returned as targets, but `evaluate`
    takes them into account.

    Args:
        images: Folder of the images.
        annotations: The instances file (JSON).
        transform: Function that augments an image and its target, for example a `LargeScaleJitter`.
        masks: Whether targets have masks.
        on_bad: "drop" leaves bad annotations out and counts them in one warning; "raise" raises an error.
        keep_empty: Whether to keep images without targets.

    Attributes:
        category_ids: The file's category ids of labels 1, 2, ...: labels are contiguous, in the order of these ids.
        left_out: Number of bad annotations that were left out, by the reason.

    Raises:
        InputError: The file cannot be read or is not in this format; an annotation refers to an unknown category or
            image; an image file is missing; or an annotation is bad and ``on_bad`` is "raise". On indexing: an image
            cannot be read, or its size differs from the one in the file.
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
        content = read_instances(self.file)
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
            checked = check_annotation(annotation, labels, self.images[annotation["image_id"]])
            if isinstance(checked, str):
                bad.append((name, checked))
            else:
                self.objects[annotation["image_id"]].append({**checked, "id": number})
        self.left_out = Counter(reason for _, reason in bad)
        self._report(bad, len(content["annotations"]), on_bad)
        self.ids = [i for i in self.images if keep_empty or any(not o["iscrowd"] for o in self.objects[i])]
        self._check_files()

    def _report(self, bad: list[tuple[Any, str]], total: int, on_bad: OnBad) -> None:
        if bad and on_bad == "raise":
            raise InputError(
                f"{self.file}: annotation {bad[0][0]} has {bad[0][1]}; on_bad='drop' leaves bad annotations out"
            )
        if bad:
            by_kind: dict[str, list[str]] = defaultdict(list)
            for name, kind in bad:
                by_kind[kind].append(str(name))
            kinds = "; ".join(
                f"{len(names)} with {kind} (id {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for kind, names in by_kind.items()
            )
            _log.warning("%s: left out %d of %d annotations: %s", self.file, len(bad), total, kinds)
        kept = [o for objects in self.objects.values() for o in objects]
        if without := [o for o in kept if "segmentation" not in o] if self.masks else []:
            _log.warning("%s: %d of %d objects have a box, but no mask", self.file, len(without), len(kept))

    def _check_files(self) -> None:
        paths = [self.folder / self.images[i]["file_name"] for i in self.ids]
        existing = {path for parent in {p.parent for p in paths} if parent.is_dir() for path in parent.iterdir()}
        if missing := [path for path in paths if path not in existing]:
            count = f"{len(missing)} of {len(paths)} images are"
            raise InputError(f"image {missing[0]} of {self.file} is missing ({count})")

    def __len__(self) -> int:
        return len(self.ids)

    def scene(self, index: int) -> tuple[Tensor, Target]:
        """Return an item without augmentation."""
        entry = self.images[self.ids[index]]
        path = self.folder / entry["file_name"]
        image = pixels_of(open_image(path))
        size = (entry["height"], entry["width"])
        if tuple(image.shape[1:]) != size:
            raise InputError(f"image {path} is {image.shape[2]} x {image.shape[1]}, not {size[1]} x {size[0]}")
        objects = [o for o in self.objects[entry["id"]] if not o["iscrowd"]]
        masks = decode_masks([o.get("segmentation") for o in objects], size) if self.masks else None
        boxes = torch.tensor([_corners(o["bbox"]) for o in objects]).reshape(-1, 4)
        area = [float(o["area"]) for o in objects]
        return _item(image, boxes, [o["category_id"] for o in objects], masks, area, entry["id"])

    def annotations(self) -> dict[str, Any]:
        """Return all annotations in COCO's instances format, without the bad ones; see `DetectionDataset`."""
        return {
            "info": {},
            "images": [self.images[i] for i in self.ids],
            "categories": [{"id": label, "name": name} for label, name in sorted(self.names.items())],
            "annotations": [{**o, "image_id": i} for i in self.ids for o in self.objects[i]],
        }


class ShapesDetection(DetectionDataset):
    """A detection dataset of the scenes of `plm_core.shapes`, whose classes are the eight shapes.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels.
        count: Number of scenes.
        seed: Seed of the world from which scenes are drawn.
        objects: Smallest and largest number of objects in a scene.
        background: "plain", "gradient" or "clutter".
        transform: Function that augments an image and its target.

    Raises:
        ValueError: An argument is out of range; the message names it.
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
        """Return an item without augmentation."""
        scene = self.world[index]
        masks = np.stack([o.mask for o in scene.objects]).astype(np.uint8)
        boxes = torch.tensor([o.box for o in scene.objects], dtype=torch.float32)
        labels = [shapes.SHAPES.index(o.shape) + 1 for o in scene.objects]
        image = torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255
        return _item(image, boxes, labels, torch.from_numpy(masks), masks.sum((1, 2)).tolist(), index % len(self))

    def annotations(self) -> dict[str, Any]:
        """Draw every scene and return all annotations in COCO's instances format; see `DetectionDataset`."""
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
                        "segmentation": encode_mask(mask),
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
    return tv_tensors.Image(image), target
