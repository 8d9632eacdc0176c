"""The recipe ``hiera-detect``: a detector on data in COCO's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from hiera import coco
from hiera.detection import Detector
from hiera.hieradet import HieraDet
from hiera.recipes.steps import detect
from hiera.recipes.tables import DetectConfig
from plm_core import InputError, weights
from plm_core.datasets import KINDS, check_classes
from plm_core.datasets.checking import leave_out, unreadable
from plm_core.datasets.layout import find_splits
from plm_core.runs import Job, Trained, begin
from plm_core.runs.job import load_body

EVALUATIONS = 10
"""Number of times that a detector is scored during a training: scoring takes time, and an epoch may be short."""


def run(job: Job) -> Trained | None:
    """Train a detector on the split of ``job.data`` to train on, and score it on the one to judge it on.

    If no object to train on has a mask, the detector loses its mask branch and learns boxes only.

    Raises:
        InputError: The data lack a split, a split has no objects that can be used, or the splits have other classes.
            Nothing is trained.
    """
    train, val = (open_split(job, folder) for folder in split_folders(job.data))
    check_classes(job.data, list(train.names.values()), list(val.names.values()))
    objects = [o for i in train.ids for o in train.objects[i]]
    masks = any("segmentation" in o for o in objects if not o["iscrowd"])
    found = f"{len(train)} images with {len(objects)} objects of {len(train.names)} classes"
    found += ("" if masks else ", boxes only") + f", {len(val)} held-out images"
    begin(job, found)
    config: DetectConfig = job.config_for(len(train))
    train.transform = coco.LargeScaleJitter(config.img_size, config.scale)
    shape: dict[str, Any] = {"num_classes": len(train.names), "img_size": config.img_size}
    shape |= {"cascade": True} if config.cascade else {}
    model = job.create(load=load_trunk, drop_path_rate=config.drop_path, **shape)
    if not isinstance(model, Detector):
        raise InputError(f"model {job.model!r} is a {type(model).__name__}; recipe {job.recipe!r} trains a Detector")
    if not masks:
        model.drop_masks()
        shape |= {"masks": False}

    def score(model: nn.Module) -> dict[str, float]:
        return coco.evaluate(model, val, num_workers=job.num_workers)

    def headline(model: nn.Module) -> dict[str, float]:
        return {name: value for name, value in score(model).items() if "mAP" in name}

    every = max(config.recipe.epochs / EVALUATIONS, 1.0)
    result = detect(model, train, config, evaluate=headline, evaluate_every=every, **job.options)
    if not result.main:
        return None
    trained = job.rebuild(result.state, **shape)
    return Trained(
        model=trained,
        labels=list(train.names.values()),
        scores=score(trained),
        history=result.history,
        data=found,
    )


def split_folders(data: str) -> tuple[Path, Path]:
    """Return the folders of the split to train on and of the one to judge the training on, both in COCO's format.

    Raises:
        InputError: One of them is missing.
    """
    train, val = find_splits(Path(data))
    if val is None or not all((s / "images").is_dir() and (s / "instances.json").is_file() for s in (train, val)):
        raise InputError(f"data {data!r} needs {KINDS['coco'].layout}")
    return train, val


def open_split(job: Job, folder: Path) -> coco.CocoDetection:
    """Open a split, and refuse one without objects: nothing could be learnt or scored.

    Images that cannot be read are left out if the job says so, and are an error otherwise.
    """
    data = coco.CocoDetection(folder / "images", folder / "instances.json")
    names = [data.images[i]["file_name"] for i in data.ids]
    bad = unreadable([data.folder / name for name in names])
    kept = leave_out(bad, names, f"images of {str(data.folder)!r}", job.skip_unreadable)
    data.ids = [data.ids[place] for place in kept]
    objects = [o for i in data.ids for o in data.objects[i]]
    if all(o["iscrowd"] for o in objects):
        counts = [f"{count} with {reason}" for reason, count in data.left_out.items()]
        counts += [f"{len(objects)} of crowds"] if objects else []
        total = data.left_out.total() + len(objects)
        left_out = f"{total} annotations, all left out ({', '.join(counts)})" if total else "no annotations"
        raise InputError(f"data {job.data!r} has no objects in {folder.name}/: {left_out}")
    return data


def load_trunk(model: nn.Module, source: str) -> None:
    """Load a pretrained encoder into the trunk of a detector.

    Args:
        model: A detector.
        source: Weights of a Hiera, in any layout, or of a HieraDet, such as those inside SAM 2; see
            `plm_core.weights.read`.

    Raises:
        InputError: The model is no detector, or the source holds a Hiera of another size.
        WeightsError: The source cannot be read, or does not hold an encoder of this size.
    """
    trunk: Any = model.backbone.trunk if isinstance(model, Detector) else model
    mapped, _ = weights.to_native(trunk, weights.read(source))
    if isinstance(trunk, HieraDet) and "pos_embed_window" not in mapped:
        trunk.load_hiera(mapped)
    else:
        load_body(trunk, source)
