"""The tour stops of hiera."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import plm_core
from hiera.micro import abswin as micro_abswin
from hiera.micro.digits import NAME, TOP1, evaluate
from hiera.pictures import detections
from plm_core import samples, shapes
from plm_core.tools.tour import Tour
from plm_core.training.finetuning import accuracy
from plm_core.utils import plots
from plm_core.utils.text import millions

DIGITS_CODE = f'''import plm_core
import torch

model = plm_core.create_model("{NAME}", pretrained=True).eval()
preprocess = plm_core.transform_for(model)
images, labels = plm_core.samples.digits("heldout")
logits = model(torch.stack([preprocess(image) for image in images]))'''


DETECTOR_NAME = "hiera_micro_detector"

ABS_WIN_CODE = f'''model = plm_core.create_model("{micro_abswin.NAME}", pretrained=True).eval()
logits = model(torch.rand(1, 3, 64, 64))  # trained at 32 px; any multiple of 16 works'''

DETECTION_CODE = f'''detector = plm_core.create_model("{DETECTOR_NAME}", pretrained=True).eval()
detections = detector([torch.rand(3, 96, 96)])[0]  # boxes, labels, scores, masks'''


@torch.inference_mode()
def digits(tour: Tour) -> None:
    """Create the micro model by name, load its safetensors and classify held-out digits."""
    model = plm_core.create_model(NAME, pretrained=True).eval()
    preprocess = plm_core.transform_for(model)
    images, labels = samples.digits("heldout")
    confidence, predicted = model(torch.stack([preprocess(image) for image in images])).softmax(-1).max(-1)
    top1 = evaluate(model)[TOP1]
    tour.text(
        f"{NAME} is a Hiera of {millions(sum(p.numel() for p in model.parameters()))} parameters, shipped "
        "as safetensors."
    )
    tour.code(DIGITS_CODE)
    errors = [i for i in range(len(labels)) if int(predicted[i]) != int(labels[i])]
    order = [*errors, *(i for i in range(len(labels)) if i not in errors)][:24]
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(9, 3.6))
    for position, i in enumerate(order, 1):
        ax = figure.add_subplot(3, 8, position)
        ax.imshow(images[i], cmap="gray_r")
        ax.set_axis_off()
        colour = "#b00020" if i in errors else "#1c2330"
        truth = f", is {int(labels[i])}" if i in errors else ""
        ax.set_title(f"{int(predicted[i])} ({confidence[i]:.0%}){truth}", fontsize=9, color=colour)
    figure.tight_layout()
    num_correct = len(labels) - len(errors)
    tour.figure(
        figure,
        f"Predictions for held-out digits with the model's confidence: all {len(errors)} errors first, in red, then "
        f"{len(order) - len(errors)} of the {num_correct} correct predictions.",
    )
    tour.text(f"The model is right on {top1:.1f} % of {len(labels)} held-out digits.")
    tour.fact(f"{NAME}, held-out digits", f"{top1:.1f} % of {len(labels)} right")


@torch.inference_mode()
def features(tour: Tour) -> None:
    """Show each stage's feature map of a photograph, in natural spatial order."""
    photo = samples.photo("china").resize((480, 320))
    model = plm_core.create_model(NAME, pretrained=True, features_only=True).eval()
    pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(320, 480, 3)
    maps = model((pixels.permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5)
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(9, 4.4))
    panels: list[tuple[str, Any]] = [
        ("the photo", photo),
        *((_title(m, i), _principal_colours(m)) for i, m in enumerate(maps)),
    ]
    for position, (title, image) in enumerate(panels, 1):
        ax = figure.add_subplot(2, 2, position)
        ax.imshow(image, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    figure.tight_layout()
    tour.text(
        "With features_only=True the model returns the feature map of each stage, as every timm backbone does. The "
        "three principal components of each map are shown as red, green and blue. This model was trained on digits "
        "only, so its features are edges and strokes. The photo is larger than the training images. Hiera accepts "
        "any size whose sides are multiples of the mask unit."
    )
    tour.figure(
        figure,
        "A photograph (danielbuechele, CC BY 2.0) and the feature maps of the three stages of hiera_micro_digits.",
    )
    tour.fact("feature maps", ", ".join("x".join(map(str, m.shape[1:])) for m in maps))


def _title(m: Tensor, stage: int) -> str:
    return f"stage {stage + 1}: {m.shape[1]} channels, {m.shape[2]} x {m.shape[3]}"


def _principal_colours(m: Tensor) -> Any:
    """Return the three principal components of a map as colours: [1, C, H, W] -> [H, W, 3] in 0..1."""
    flat = m[0].flatten(1).T
    flat = flat - flat.mean(0)
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    colours = flat @ directions[:3].T
    low, high = colours.quantile(0.01, 0), colours.quantile(0.99, 0)
    return ((colours - low) / (high - low)).clamp(0, 1).view(*m.shape[2:], 3).numpy()


@torch.inference_mode()
def abs_win(tour: Tour) -> None:
    """Run two models at twice their resolution: one with a plain, interpolated embedding and one with Absolute Win."""
    windowed: Any = plm_core.create_model(micro_abswin.NAME, pretrained=True).eval()
    plain: Any = plm_core.create_model(micro_abswin.PLAIN_NAME, pretrained=True).eval()
    rows = []
    for size in (32, 48, 64):
        held_out = micro_abswin.Placed("heldout", size, fixed=True)
        rows.append(
            {
                "resolution": f"{size} px",
                "plain, interpolated": f"{accuracy(plain, held_out):.1f} %",
                "Absolute Win": f"{accuracy(windowed, held_out):.1f} %",
            }
        )
    tour.text(
        "With window attention, a learned position embedding becomes a repeated tile. When it is interpolated for a "
        "larger input, the tiles no longer fit the windows. Absolute Win learns the tile and a global embedding "
        "separately: the tile is repeated and the global embedding is interpolated. Two models that differ only in "
        "their position embeddings were trained to read digits anywhere on a canvas of 32 px. Here they read digits "
        "of the same sizes on larger canvases, without finetuning."
    )
    tour.code(ABS_WIN_CODE)
    tour.table(rows)
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(9, 3.2), layout="constrained")
    panels = {
        "plain, trained at 8 x 8": plain.positions((8, 8)),
        "plain, interpolated to 16 x 16": plain.positions((16, 16)),
        "Absolute Win at 16 x 16": windowed.positions((16, 16)),
    }
    for ax, (title, table) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        side = table.shape[1]
        ax.imshow(_principal_colours(table.movedim(-1, 1)), interpolation="nearest")
        for line in range(4, side, 4):  # the windows of stage 1
            ax.axhline(line - 0.5, color="white", linewidth=0.8)
            ax.axvline(line - 0.5, color="white", linewidth=0.8)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    tour.figure(
        figure,
        "The three principal components of the position embeddings as colours. White lines separate the attention "
        "windows. After plain interpolation each window covers a stretched part of a tile. With Absolute Win each "
        "window covers a whole tile.",
    )
    tour.fact("top-1 at twice the resolution", f"{rows[-1]['plain, interpolated']} -> {rows[-1]['Absolute Win']}")


@torch.inference_mode()
def detection(tour: Tour) -> None:
    """Show the boxes and masks that the micro detector predicts in held-out scenes."""
    model = plm_core.create_model(DETECTOR_NAME, pretrained=True).eval()
    world = shapes.Images("heldout", size=96, count=8)
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) / 255 for scene in world]
    predictions = model(images)
    names = dict(enumerate(shapes.SHAPES, 1))
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(9, 4.8), layout="constrained")
    for ax, image, prediction in zip(figure.subplots(2, 4).flat, images, predictions, strict=True):
        ax.imshow(detections(image, prediction, names))
        ax.set_axis_off()
    num_detections = sum(int((prediction["scores"] >= 0.5).sum()) for prediction in predictions)
    num_objects = sum(len(scene.objects) for scene in world)
    tour.text(
        f"{DETECTOR_NAME} is a Mask R-CNN on a HieraDet trunk, in torchvision's detection framework: "
        f"{millions(sum(p.numel() for p in model.parameters()))} parameters in all."
    )
    tour.code(DETECTION_CODE)
    tour.figure(figure, f"Held-out scenes: {num_detections} detections score at least 0.5, for {num_objects} objects.")
    tour.fact("detections above 0.5 in 8 scenes", f"{num_detections}, for {num_objects} objects")
