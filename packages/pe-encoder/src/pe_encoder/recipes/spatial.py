"""The recipe ``pe-spatial``: a vision tower is aligned for dense tasks (arXiv 2504.13181, section 5).

The student starts as the core tower and is masked. Its last layer learns the tokens of a middle layer of the core, and
the similarities of tokens that a second teacher finds, which knows where objects end.

Shapes: B images, N tokens, P patches, C channels of the tower, D channels of the second teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from pe_encoder.alignment import start
from pe_encoder.clip import CLIP
from pe_encoder.model import VisionTower
from pe_encoder.recipes.masking import hide
from pe_encoder.recipes.pairs import Augment
from pe_encoder.recipes.spatial_tables import SpatialConfig
from plm_core import InputError, create_model
from plm_core.datasets import Pictures, read_dataset, readable
from plm_core.models import input_of
from plm_core.runs import Job, Trained, begin
from plm_core.training import TrainResult, fit
from plm_core.utils.references import resolve

Teacher = Callable[[Tensor], Tensor]
"""A function from images [B, 3, H, W] to features [B, D, rows, columns]."""


class Student(nn.Module):
    """A vision tower whose patches can be masked. The tower is the given one, so it is trained in place.

    Args:
        tower: The tower, which returns tokens.
    """

    def __init__(self, tower: VisionTower) -> None:
        super().__init__()
        self.tower = tower
        width, weight = tower.embed_dim, tower.patch_embed.proj.weight
        self.mask_token = nn.Parameter(width**-0.5 * torch.randn(width, device=weight.device, dtype=weight.dtype))

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:
        """Return the last layer's tokens: images [B, 3, H, W] and masked patches, bool [B, P] -> [B, N, C]."""
        tower = self.tower
        grid = tower.grid_of(images)
        patches = hide(tower.patch_embed(images), masked, self.mask_token)
        return tower.run(*tower.place(patches, grid))

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return {f"tower.{name}" for name in self.tower.no_weight_decay()} | {"mask_token"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks again in the backward pass."""
        self.tower.set_grad_checkpointing(enable)


def draw_blocks(images: int, grid: tuple[int, int], ratio: float, side: int, device: Any = None) -> Tensor:
    """Draw masked patches in square blocks, as many blocks in each image.

    Args:
        images: B.
        grid: Rows and columns of patches. Blocks at the right and lower edge may be cut off.
        ratio: Share of the blocks that are masked.
        side: Side of a block in patches.
        device: Device of the mask.

    Returns:
        Which patches are masked, bool [B, P].
    """
    rows, columns = (-(-length // side) for length in grid)
    order = torch.rand(images, rows * columns, device=device).argsort(1).argsort(1)
    blocks = (order < round(ratio * rows * columns)).unflatten(1, (rows, columns))
    patches = blocks.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return patches[:, : grid[0], : grid[1]].flatten(1)


def core_loss(tokens: Tensor, target: Tensor) -> Tensor:
    """Return minus the mean cosine of tokens with those of the first teacher, [B, N, C] each. It is at least -1."""
    return -F.cosine_similarity(tokens.float(), target.float(), dim=-1).mean()


def local_loss(patches: Tensor, features: Tensor, sharpness: float) -> Tensor:
    """Return the mean squared difference of the patches' similarities and those of the second teacher, sharpened.

    Args:
        patches: Tokens of the patches, [B, P, C].
        features: Features of the second teacher at the patches, [B, P, D].
        sharpness: t; a cosine c of features becomes exp(t (c - 1)).
    """
    return F.mse_loss(similarities(patches), torch.exp(sharpness * (similarities(features) - 1)))


def similarities(x: Tensor) -> Tensor:
    """Return the cosines of all pairs of tokens: [B, P, C] -> [B, P, P]."""
    unit = F.normalize(x.float(), dim=-1)
    return unit @ unit.mT


def at_patches(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize features [B, D, rows, columns] to a grid of patches: [B, P, D]."""
    if features.shape[2] % grid[0] or features.shape[3] % grid[1]:
        resized = F.interpolate(features, size=grid, mode="bilinear", align_corners=False, antialias=True)
    else:
        resized = F.adaptive_avg_pool2d(features, grid)  # the mean of what a patch covers
    return resized.flatten(2).mT


def train_spatial(
    student: VisionTower,
    core: VisionTower,
    data: Dataset[Any],
    config: SpatialConfig,
    teacher: Teacher | None,
    **options: Any,
) -> TrainResult:
    """Align a vision tower in place.

    Args:
        student: The tower to train, which starts with the weights of the core (see `pe_encoder.alignment.start`).
        core: The first teacher, which is frozen and sees the images without masks.
        data: A dataset of (image, anything), or if there is no second teacher of (image, its features [D, rows,
            columns]).
        config: The settings. Its ``core`` and ``teacher`` are not looked at.
        teacher: The second teacher, or None if the data bring its features along.
        **options: Keywords of `plm_core.training.fit`.

    Returns:
        The result of `fit`, with the state dict of the tower. The history has both parts of the loss.

    Raises:
        InputError: As `fit` does.
    """
    core.requires_grad_(False).eval()

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        images, given = batch
        grid = core.grid_of(images)
        core.to(images.device)
        with torch.no_grad():
            target = core.forward_features(images, layer_idx=config.core_layer)
            features = at_patches((given if teacher is None else teacher(images)).float(), grid)
        masked = draw_blocks(len(images), grid, config.mask_ratio, config.mask_block, images.device)
        tokens = model(images, masked)
        parts = {
            "core": core_loss(tokens, target),
            "local": local_loss(tokens[:, core.num_prefix_tokens :], features, config.sharpness),
        }
        return config.core_weight * parts["core"] + config.local_weight * parts["local"], parts

    result = fit(Student(student), data, loss, config.recipe, **options)
    state = {key.removeprefix("tower."): value for key, value in result.state.items() if key.startswith("tower.")}
    return TrainResult(state, result.history, result.main)


def run(job: Job) -> Trained | None:
    """Align a vision tower on images, as ``plm train pe-spatial`` does. The labels are not used."""
    data = readable(read_dataset(job.data), job.skip_unreadable)
    found = f"{len(data)} {data.kind}"
    begin(job, found)
    config: SpatialConfig = job.config_for(len(data))
    core = core_tower(config.core, job.pretrained)
    student = replace(job, pretrained=False).create(drop_path_rate=config.drop_path)
    if not isinstance(student, VisionTower) or student.global_pool not in ("", "avg") or student.num_classes:
        raise InputError(f"model {job.model!r} is not one that recipe {job.recipe!r} trains: name a pe_spatial_*")
    start(student, core)
    core.set_input_size(student.image_size)
    pictures = Pictures(data, Augment(config, input_of(student)))
    result = train_spatial(student, core, pictures, config, resolve(config.teacher), **job.options)
    if not result.main:
        return None
    last = result.history[-1] if result.history else {}
    return Trained(
        model=job.rebuild(result.state),
        scores={f"training {name}": last[name] for name in ("loss", "core", "local") if name in last},
        history=result.history,
        data=found,
        notes={"Alignment": f"started from {config.core}, second teacher {config.teacher}"},
    )


def core_tower(name: str, pretrained: bool = True) -> VisionTower:
    """Create the vision tower to start from.

    Args:
        name: Name of a pe_core_* or pe_clip_*, or folder of one.
        pretrained: Whether it has its weights. Without them, an alignment is no more than a trial.

    Raises:
        InputError: It is no vision tower of the family.
    """
    model = create_model(name, pretrained=pretrained)
    tower = model.visual if isinstance(model, CLIP) else model
    if not isinstance(tower, VisionTower):
        raise InputError(f"core {name!r} is a {type(model).__name__}; the name of a pe_core_* or pe_clip_* is allowed")
    return copy.deepcopy(tower)
