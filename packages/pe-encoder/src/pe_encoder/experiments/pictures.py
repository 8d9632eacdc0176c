"""Pictures of what a small CLIP sees in held-out scenes: its zero-shot choices, texts by place, and its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pe_encoder.dense import segment
from pe_encoder.micro.clip import CLASSES, TEMPLATE, alone, normalised, seen
from pe_encoder.pictures import paint_pca
from pe_encoder.zeroshot import embed_classes, logits
from plm_core import shapes
from plm_core.prediction.drawing import draw_regions
from plm_core.shapes.scenes import Object, Scene
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCENES = 5
LARGE = 144
"""Side of the scenes whose patches are looked at, in pixels, large enough for a picture with names."""


@torch.inference_mode()
def zero_shot(model: Any, size: int = 48) -> tuple[Figure, int]:
    """Draw five scenes whose pair of colour and shape the training did not have, with the text that a CLIP chooses.

    Args:
        model: A CLIP that knows the world of shapes, in eval mode.
        size: Side of its images in pixels.

    Returns:
        The figure, and for how many of the five scenes the text is the right one of 80.
    """
    scenes = draw(size, (1, 1), lambda scene: alone(scene) and not seen(scene))
    scores = logits(model.encode_image(_pixels(scenes)), embed_classes(model, CLASSES, TEMPLATE)).softmax(-1)
    names = [name_of(scene.objects[0]) for scene in scenes]
    best = [CLASSES[place] for place in scores.argmax(-1).tolist()]
    labels = [f"{name}\n{score:.0%} {guess}" for name, score, guess in zip(names, scores.amax(-1), best, strict=True)]
    return _row([scene.image for scene in scenes], labels), sum(
        name == guess for name, guess in zip(names, best, strict=True)
    )


@torch.inference_mode()
def text_map(model: Any) -> tuple[Figure, float]:
    """Draw five scenes of two objects with the text that fits best over each place, of the two that name the objects.

    Returns:
        The figure, and the share of the objects' pixels that have the right text.
    """
    scenes = draw(LARGE, (2, 2), lambda scene: all(thing.size == "large" for thing in scene.objects))
    pictures: list[Image.Image] = []
    titles: list[str] = []
    right = total = 0
    for scene in scenes:
        names = [name_of(thing) for thing in scene.objects]
        image = Image.fromarray(scene.image)
        regions = segment(model, image, embed_classes(model, names, TEMPLATE))
        pictures.append(draw_regions(image, regions, names))
        titles.append(", ".join(names))
        right += sum(int((thing.mask & (regions == number)).sum()) for number, thing in enumerate(scene.objects))
        total += sum(int(thing.mask.sum()) for thing in scene.objects)
    return _row(pictures, titles), right / total


@torch.inference_mode()
def features(model: Any) -> tuple[Figure, int]:
    """Draw two scenes beside the three main components of the features of the last layer but one, as colours.

    Returns:
        The figure, and the number of patches in it.
    """
    scenes = draw(LARGE, (2, 4), lambda scene: True)[:2]
    maps = model.visual.forward_intermediates(_pixels(scenes), [-2], intermediates_only=True)[0]
    pictures = [paint_pca(Image.fromarray(scene.image), x) for scene, x in zip(scenes, maps, strict=True)]
    return _row(pictures, ["a scene and its features"] * len(pictures)), maps[:, 0].numel()


def draw(size: int, objects: tuple[int, int], wanted: Callable[[Scene], bool]) -> list[Scene]:
    """Return the first five held-out scenes on plain grey that are wanted."""
    world = shapes.Images("heldout", size=size, count=1000, seed=1, objects=objects, background="plain")
    found: list[Scene] = []
    for scene in world:
        if wanted(scene):
            found.append(scene)
        if len(found) == SCENES:
            break
    return found


def name_of(thing: Object) -> str:
    """Return the name of an object, such as "red circle"."""
    return f"{thing.colour} {thing.shape}"


def _pixels(scenes: Sequence[Scene]) -> Tensor:
    """Return scenes as the model takes them, float [B, 3, H, W]."""
    return normalised(torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]))


def _row(pictures: Sequence[Any], titles: Sequence[str]) -> Figure:
    width = sum(np.shape(picture)[1] / np.shape(picture)[0] for picture in pictures)
    figure = plots.figure("a picture", "plm-core[tour]", figsize=(2.2 * width, 2.6), layout="constrained")
    for ax, picture, title in zip(figure.subplots(1, len(pictures)), pictures, titles, strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=8)
        ax.set_axis_off()
    return figure
