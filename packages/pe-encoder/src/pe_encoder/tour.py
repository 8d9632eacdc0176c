"""The stops of the Perception Encoder on ``plm tour``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

import plm_core
from pe_encoder.dense import segment
from pe_encoder.micro.clip import CLASSES, NAME, TEMPLATE, alone, normalised, seen
from pe_encoder.pictures import paint_pca
from pe_encoder.zeroshot import embed_classes, logits
from plm_core import shapes
from plm_core.prediction.drawing import draw_regions
from plm_core.shapes.scenes import Scene
from plm_core.tools.tour import Tour
from plm_core.utils import plots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

SCENES = 5
LARGE = 144
"""Side of the scenes whose patches are looked at, in pixels, large enough for a picture with names."""

ZERO_SHOT = f'''import plm_core
from pe_encoder import zeroshot

model = plm_core.create_model("{NAME}", pretrained=True).eval()
weight = zeroshot.embed_classes(model, ["red circle", "blue star", ...], "{TEMPLATE}")
logits = zeroshot.logits(model.encode_image(images), weight)'''
DENSE = """from pe_encoder.dense import segment, text_maps

maps = text_maps(model, images, weight)  # [B, texts, rows, columns]: the cosine of each patch with each text
regions = segment(model, image, weight)  # [H, W]: the number of the text that fits best"""
FEATURES = """from pe_encoder.pictures import paint_pca

feature_map = model.visual.forward_intermediates(images, [-2], intermediates_only=True)[0]
picture = paint_pca(image, feature_map[0])"""


@torch.inference_mode()
def zero_shot(tour: Tour) -> None:
    """Show which texts a CLIP chooses for scenes with pairs of colour and shape that its training did not have."""
    tour.text(
        "PE-Core embeds pictures and texts in one space, so a text is a classifier. This tiny one was trained on "
        "captions of coloured shapes, in which some pairs of a colour and a shape never came up. The scenes below show "
        f"these pairs, and all {len(CLASSES)} pairs are to choose from."
    )
    tour.code(ZERO_SHOT)
    model = _model()
    scenes = _scenes(48, (1, 1), lambda scene: alone(scene) and not seen(scene))
    scores = logits(model.encode_image(_pixels(scenes)), embed_classes(model, CLASSES, TEMPLATE)).softmax(-1)
    names = [f"{scene.objects[0].colour} {scene.objects[0].shape}" for scene in scenes]
    best = [CLASSES[place] for place in scores.argmax(-1).tolist()]
    labels = [f"{name}\n{score:.0%} {guess}" for name, score, guess in zip(names, scores.amax(-1), best, strict=True)]
    tour.figure(
        _row([scene.image for scene in scenes], labels),
        "Held-out scenes with unseen pairs. Above each is what it shows, and below that the text that was chosen.",
    )
    right = sum(name == guess for name, guess in zip(names, best, strict=True))
    tour.fact("texts chosen for unseen pairs of colour and shape", f"{right} of {len(names)} right")


@torch.inference_mode()
def text_map(tour: Tour) -> None:
    """Show where in a scene each of two objects is, by texts that name them."""
    tour.text(
        "The projection to the space of texts is learned for a whole picture. It says nothing of a patch unless the "
        "patch goes the same way: through the attention pool, with its neighbours, and through the pool's MLP. Then "
        "each patch can be compared with texts, and gets the one that fits best. The background gets one, too."
    )
    tour.code(DENSE)
    model = _model()
    scenes = _scenes(LARGE, (2, 2), lambda scene: all(thing.size == "large" for thing in scene.objects))
    pictures: list[Image.Image] = []
    right = total = 0
    for scene in scenes:
        names = [f"{thing.colour} {thing.shape}" for thing in scene.objects]
        image = Image.fromarray(scene.image)
        regions = segment(model, image, embed_classes(model, names, TEMPLATE))
        pictures.append(draw_regions(image, regions, names))
        right += sum(int((thing.mask & (regions == number)).sum()) for number, thing in enumerate(scene.objects))
        total += sum(int(thing.mask.sum()) for thing in scene.objects)
    tour.figure(_row(pictures, [""] * len(pictures)), "Held-out scenes of two objects, and the text of each place.")
    tour.fact("pixels of two objects that the right text gets", f"{right / total:.0%}")


@torch.inference_mode()
def features(tour: Tour) -> None:
    """Show the features of an inner layer as colours."""
    tour.text(
        "The best features for a task are often inside the network. forward_features stops at any layer. Here the "
        "three main components of a layer's features become lightness, chroma and hue: patches of one colour are alike."
    )
    tour.code(FEATURES)
    model = _model()
    scenes = _scenes(LARGE, (2, 4), lambda scene: True)[:2]
    maps = model.visual.forward_intermediates(_pixels(scenes), [-2], intermediates_only=True)[0]
    pictures = [
        paint_pca(Image.fromarray(scene.image), feature_map) for scene, feature_map in zip(scenes, maps, strict=True)
    ]
    tour.figure(
        _row(pictures, ["a scene and its features"] * len(pictures)), f"Features of the last but one layer of {NAME}."
    )
    tour.fact("patches whose features were painted", str(maps[0, 0].numel() * len(scenes)))


def _model() -> Any:
    return plm_core.create_model(NAME, pretrained=True).eval()


def _scenes(size: int, objects: tuple[int, int], wanted: Callable[[Scene], bool]) -> list[Scene]:
    """Return the first held-out scenes on plain grey that are wanted."""
    world = shapes.Images("heldout", size=size, count=1000, seed=1, objects=objects, background="plain")
    found: list[Scene] = []
    for scene in world:
        if wanted(scene):
            found.append(scene)
        if len(found) == SCENES:
            break
    return found


def _pixels(scenes: Sequence[Scene]) -> Tensor:
    """Return scenes as the model takes them, float [B, 3, H, W]."""
    return normalised(torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]))


def _row(pictures: Sequence[Any], titles: Sequence[str]) -> Figure:
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(2.2 * len(pictures), 2.6), layout="constrained")
    for ax, picture, title in zip(figure.subplots(1, len(pictures)), pictures, titles, strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=8)
        ax.set_axis_off()
    return figure
