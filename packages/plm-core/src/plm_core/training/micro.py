"""The shared parts of the recipes of micro models: data, an augmentation, and the two files that are shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from plm_core import shapes, weights
from plm_core.utils.files import write_text
from plm_core.utils.progress import track

CARD = """---
license: apache-2.0
library_name: timm
pipeline_tag: {task}
tags: [{family}, plm]
---

# {name}

{what}

{facts}

Load it with `plm_core.create_model("{name}", pretrained=True)`.
"""
SHIPPED = (
    "It is shipped with its package, so that the package can be tried and tested without a download. It is not a model "
    "for general use."
)


class InMemory(Dataset[tuple[Tensor, Tensor]]):
    """A dataset of inputs [N, ...] and labels [N], with an optional augmentation of each input."""

    def __init__(self, x: Tensor, y: Tensor, augment: Callable[[Tensor], Tensor] | None = None) -> None:
        self.x = x
        self.y = y
        self.augment = augment

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        return (x if self.augment is None else self.augment(x)), self.y[index]


@dataclass(frozen=True)
class FlipAndShift:
    """An augmentation of an image [C, H, W]: flip it with probability one half, and shift it around the edges.

    Args:
        pixels: The largest shift in each direction.
    """

    pixels: int

    def __call__(self, x: Tensor) -> Tensor:
        """Augment one image."""
        down, right = torch.randint(-self.pixels, self.pixels + 1, (2,)).tolist()
        return (x.flip(-1) if torch.rand(()) < 0.5 else x).roll((down, right), (-2, -1))


def large_shapes(split: str, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw scenes of one large shape on plain grey.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels.
        count: Number of scenes.

    Returns:
        The images, uint8 [count, 3, size, size], and the numbers of their shapes, int64 [count].
    """
    world = shapes.Images(split, size=size, count=8 * count, objects=(1, 1), background="plain")
    large = islice((scene for scene in world if scene.objects[0].size == "large"), count)
    images, labels = torch.empty(count, 3, size, size, dtype=torch.uint8), torch.empty(count, dtype=torch.int64)
    for i, scene in enumerate(track(large, f"drawing {split} scenes", count)):
        images[i] = torch.from_numpy(scene.image).permute(2, 0, 1)
        labels[i] = shapes.SHAPES.index(scene.objects[0].shape)
    return images, labels


@cache
def silhouettes(split: Literal["train", "heldout"], count: int) -> InMemory:
    """Return the silhouettes of large shapes: float [1, 32, 32] from -1 to 1, and the numbers of the shapes.

    A pixel's value is its distance from the background colour. Images are cut out around the shape. Training images
    are shifted at random by up to two pixels.
    """
    images, labels = large_shapes(split, 48, count)
    coloured = images / 127.5 - 1
    distance = (coloured - coloured[:, :, :1, :1]).abs().amax(1)  # the corner is background
    distance = F.pad(distance / distance.amax((1, 2), keepdim=True), (16,) * 4)
    x = distance.new_empty(count, 1, 32, 32)
    for i, image in enumerate(distance):
        top, left = (int(places.float().mul(2).mean()) // 2 - 16 for places in (image > 0.5).nonzero(as_tuple=True))
        x[i, 0] = image[top : top + 32, left : left + 32]
    return InMemory(2 * x - 1, labels, shift if split == "train" else None)


def shift(x: Tensor) -> Tensor:
    """Shift an image [C, H, W] at random by up to two pixels; what moves in is -1."""
    top, left = torch.randint(0, 5, (2,)).tolist()
    return F.pad(x, (2,) * 4, value=-1.0)[:, top : top + x.shape[1], left : left + x.shape[2]]


def save_micro(model: nn.Module, kind: str, name: str, out: Path, task: str, what: str, facts: dict[str, Any]) -> None:
    """Write ``name.safetensors`` and its model card into a folder.

    Args:
        model: The trained model. It is moved to the CPU.
        kind: The architecture, such as "Hiera (arXiv 2306.00989)".
        name: The name for `create_model`; the part before the first "_" is the family.
        out: The folder.
        task: The task as the Hugging Face Hub calls it.
        what: The training in words, such as "trained from scratch to read handwritten digits".
        facts: The rows of the card, such as data, recipe and score.
    """
    weights.save(model.cpu(), out / f"{name}.safetensors")
    params = sum(p.numel() for p in model.parameters())
    about = f"A {kind}, {what}. It has {params:,} parameters. {SHIPPED}"
    rows = {**facts, "Licence": "Apache-2.0, code and weights."}
    lines = "\n".join(
        fill(f"- **{key}**: {value}", 120, subsequent_indent="  ", break_on_hyphens=False)
        for key, value in rows.items()
    )
    write_text(
        out / f"{name}.md",
        CARD.format(name=name, family=name.split("_")[0], task=task, what=fill(about, 120), facts=lines),
    )
