"""Scenes, linear classifiers on frozen features, and the scores of segmentations of the world of shapes.

Shapes: N scenes, P patches of a scene, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core.shapes import COLOURS, SHAPES, Images
from plm_core.shapes.scenes import Object, Scene

DECAY = 1e-3
"""Weight of the squared norm of a probe, for standardised features."""
STEPS = 60
"""Iterations of L-BFGS."""


class Probe:
    """A linear classifier that is fitted to features, which are standardised first.

    Args:
        features: [M, C].
        targets: Classes, int64 [M], or shares of classes, float [M, K].
        classes: K.
    """

    def __init__(self, features: Tensor, targets: Tensor, classes: int) -> None:
        self.mean = features.mean(0)
        self.std = features.std(0).clamp_min(1e-6)
        x = (features - self.mean) / self.std
        self.weight = torch.zeros(x.shape[1], classes, requires_grad=True)
        self.bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                value = F.cross_entropy(x @ self.weight + self.bias, targets) + DECAY * self.weight.square().sum()
                value.backward()
            return value

        optimizer.step(loss)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits: [..., C] -> [..., K]."""
        return (features - self.mean) / self.std @ self.weight + self.bias


def draw(split: str, count: int, size: int, objects: tuple[int, int] = (1, 4)) -> list[Scene]:
    """Draw scenes on plain grey.

    Args:
        split: "train" or "heldout".
        count: N.
        size: Height and width in pixels.
        objects: Smallest and largest number of objects.
    """
    world = Images(split, size=size, count=count, objects=objects, background="plain")
    return [world[place] for place in range(count)]


def images_of(scenes: Sequence[Scene]) -> Tensor:
    """Return the images of scenes as the models take them, float [N, 3, H, W] from -1 to 1."""
    return torch.stack([torch.from_numpy(scene.image) for scene in scenes]).permute(0, 3, 1, 2) / 127.5 - 1


def regions_of(scenes: Sequence[Scene], number: Callable[[Object], int]) -> Tensor:
    """Return the classes of pixels, int64 [N, H, W]: 0 for the background, and ``number`` of an object, from 1 on."""
    regions = torch.zeros(len(scenes), *scenes[0].image.shape[:2], dtype=torch.int64)
    for region, scene in zip(regions, scenes, strict=True):
        for thing in scene.objects:
            region[torch.from_numpy(thing.mask)] = number(thing)
    return regions


def shape_of(thing: Object) -> int:
    """Return the number of an object's shape, from 1 on."""
    return 1 + SHAPES.index(thing.shape)


def colour_of(thing: Object) -> int:
    """Return the number of an object's colour, from 1 on."""
    return 1 + COLOURS.index(thing.colour)


def shares(regions: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """Return the share of each class in the cells of a grid: int64 [N, H, W] -> float [N, P, K]."""
    maps = F.one_hot(regions, classes).permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(maps, grid).flatten(2).mT


def segmentation(
    train: tuple[Tensor, Tensor], heldout: tuple[Tensor, Tensor], grid: tuple[int, int], classes: int
) -> float:
    """Fit a probe to the patches of scenes, and score it on the pixels of others.

    Args:
        train: Features of patches, [N, P, C], and the classes of pixels, int64 [N, H, W], to fit the probe to.
        heldout: The same of scenes to score it on. Its probabilities are resized to the pixels bilinearly.
        grid: Rows and columns of patches.
        classes: K, with the background.

    Returns:
        The mean over the classes of the intersection over union, from 0 to 1.
    """
    probe = Probe(train[0].flatten(0, 1), shares(train[1], grid, classes).flatten(0, 1), classes)
    return iou(labels(probe(heldout[0]).softmax(-1), grid, heldout[1].shape[1:]), heldout[1], classes)


def labels(scores: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Return the best class of each pixel: scores of patches [N, P, K] -> int64 [N, H, W]."""
    maps = scores.mT.unflatten(2, grid)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False).argmax(1)


def iou(predicted: Tensor, regions: Tensor, classes: int) -> float:
    """Return the mean over the classes that occur of the intersection over union of all pixels."""
    counts = torch.bincount((regions * classes + predicted).flatten(), minlength=classes**2).view(classes, classes)
    inside = counts.diag().double()
    union = counts.sum(0) + counts.sum(1) - inside
    return (inside[union > 0] / union[union > 0]).mean().item()


def accuracy(train: tuple[Tensor, Tensor], heldout: tuple[Tensor, Tensor], classes: int) -> float:
    """Fit a probe to features [N, C] and classes [N], and return the share of others that it gets right."""
    probe = Probe(*train, classes)
    return (probe(heldout[0]).argmax(-1) == heldout[1]).double().mean().item()
