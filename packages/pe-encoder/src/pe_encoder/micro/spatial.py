"""The recipe of ``pe_micro_spatial``, the vision tower of `pe_micro_clip` after the spatial alignment.

``plm retrain pe_micro_spatial --out DIR`` runs `train`. Training needs the extra ``pe-encoder[train]``. In place of
SAM, the second teacher is the exact masks of the scenes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import plm_core
from pe_encoder.alignment import start
from pe_encoder.configs import PAPER
from pe_encoder.experiments.probes import colour_of, images_of, regions_of, segmentation
from pe_encoder.recipes.spatial import core_tower, train_spatial
from pe_encoder.recipes.spatial_tables import SPATIAL
from plm_core import shapes
from plm_core.shapes import COLOURS
from plm_core.shapes.scenes import Object, Scene
from plm_core.training.micro import save_micro

NAME = "pe_micro_spatial"
CORE = "pe_micro_clip"
SIZE = 48
TRAIN = 4000
"""Scenes to align on."""
PROBED = 2000
"""Scenes that the probe is fitted to, of the training split, and not among those to align on."""
HELD_OUT = 1000
MOST = 4
"""The most objects of a scene."""
CONFIG = SPATIAL["micro"]
IOU = "held-out mIoU % of ten colours and the background, linear probe"
OBJECTS = "held-out mIoU % of objects and the background, linear probe"


@cache
def scenes(split: str, count: int, seed: int = 0) -> tuple[Scene, ...]:
    """Return scenes of one to four objects on plain grey."""
    world = shapes.Images(split, size=SIZE, count=count, seed=seed, objects=(1, MOST), background="plain")
    return tuple(world[i] for i in range(count))


class Masked(Dataset[tuple[Tensor, Tensor]]):
    """Scenes as (float [3, 48, 48] from -1 to 1, float [5, 48, 48]: the masks of the background and of the objects).

    Half of them are flipped.
    """

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        self.images = images_of(scenes)
        self.masks = torch.zeros(len(scenes), 1 + MOST, SIZE, SIZE)
        for masks, scene in zip(self.masks, scenes, strict=True):
            for number, thing in enumerate(scene.objects, 1):
                masks[number] = torch.from_numpy(thing.mask)
            masks[0] = 1 - masks[1:].sum(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, masks = self.images[index], self.masks[index]
        return (image.flip(-1), masks.flip(-1)) if torch.rand(()) < 0.5 else (image, masks)


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Align the tower, and write ``pe_micro_spatial.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Random seed of masks, order and flips.

    Returns:
        The held-out scores, as `evaluate` returns them.

    Raises:
        MissingDependency: The extra pe-encoder[train] is not installed.
    """
    core = core_tower(CORE)
    before = evaluate(core)
    model = align(core, seed)
    scores = evaluate(model)
    recipe = CONFIG.recipe
    facts = {
        "Data": f"{TRAIN} scenes of {SIZE} px with one to {MOST} objects from plm_core.shapes, and their exact masks "
        f"as the second teacher. The probe is fitted to {PROBED} others, and scored on {HELD_OUT} held-out ones.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `pe_encoder.micro.spatial`), from `{CORE}`: "
        f"{recipe.epochs:g} epochs, batch {recipe.batch_size}, AdamW lr {recipe.lr}, cosine schedule, "
        f"{CONFIG.mask_ratio:.0%} of the patches masked, layer scale 0.1.",
        **{f"Score, {name}": f"{before[name]:.1f} before, {scores[name]:.1f} after" for name in scores},
    }
    what = "aligned for dense features on the world of shapes"
    kind = f"Perception Encoder (PE-Spatial, {PAPER})"
    save_micro(model, kind=kind, name=NAME, out=out, task="image-feature-extraction", what=what, facts=facts)
    return scores


def align(core: Any, seed: int = 0, **changes: Any) -> Any:
    """Return a tower that was aligned, in eval mode.

    Args:
        core: The vision tower to start from.
        seed: Random seed.
        **changes: Options of `train_spatial`, such as ``config``.
    """
    torch.manual_seed(seed)
    model: Any = plm_core.create_model(NAME)
    start(model, core)
    config = changes.pop("config", CONFIG)
    train_spatial(model, core, Masked(scenes("train", TRAIN)), config, None, seed=seed, **changes)
    return model.eval()


@torch.no_grad()
def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the scores of linear probes on the patches of the last layer, in %."""
    tower: Any = model.eval()
    parts = [scenes("train", PROBED, seed=1), scenes("heldout", HELD_OUT)]
    images = [images_of(part) for part in parts]
    features = [
        torch.cat([tower.forward_features(some, strip_cls_token=True) for some in x.split(250)]).cpu() for x in images
    ]
    scores = {}
    for name, number, classes in ((IOU, colour_of, 1 + len(COLOURS)), (OBJECTS, _one, 2)):
        train, heldout = ((x, regions_of(part, number)) for x, part in zip(features, parts, strict=True))
        scores[name] = 100 * segmentation(train, heldout, tower.grid_of(images[0]), classes)
    return scores


def _one(thing: Object) -> int:
    """Return the class of any object."""
    return 1
