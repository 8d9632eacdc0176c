"""Hiera's stops on the tour."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import plm_core
from hiera.micro import abswin as micro_abswin
from hiera.micro.digits import NAME, TOP1, evaluate
from plm_core import samples, shapes
from plm_core.tools.tour import Tour
from plm_core.training.finetuning import accuracy

DIGITS_CODE = f'''import plm_core
import torch

model = plm_core.create_model("{NAME}", pretrained=True).eval()
preprocess = plm_core.transform_for(model)
images, labels = plm_core.samples.digits("heldout")
logits = model(torch.stack([preprocess(image) for image in images]))'''


DETECTOR_NAME = "hiera_micro_detector"

ABS_WIN_CODE = f'''model = plm_core.create_model("{micro_abswin.NAME}", pretrained=True).eval()
logits = model(torch.rand(1, 3, 64, 64))  # trained at 32: any multiple of 16 will do'''

DETECTION_CODE = f'''detector = plm_core.create_model("{DETECTOR_NAME}", pretrained=True).eval()
detections = detector([torch.rand(3, 96, 96)])[0]  # boxes, labels, scores, masks'''


@torch.inference_mode()
def digits(tour: Tour) -> None:
    """Create the micro model by name, load its safetensors, read held-out digits."""
    model = plm_core.create_model(NAME, pretrained=True).eval()
    preprocess = plm_core.transform_for(model)
    images, labels = samples.digits("heldout")
    confidence, predicted = model(torch.stack([preprocess(image) for image in images])).softmax(-1).max(-1)
    top1 = evaluate(model)[TOP1]
    tour.text(
        f"{NAME} is a Hiera of {sum(p.numel() for p in model.parameters()):,} parameters, shipped as safetensors."
    )
    tour.code(DIGITS_CODE)
    wrong = [i for i in range(len(labels)) if int(predicted[i]) != int(labels[i])]
    shown = [*wrong, *(i for i in range(len(labels)) if i not in wrong)][:24]
    figure = Figure(figsize=(9, 3.6))
    for place, i in enumerate(shown):
        ax = figure.add_subplot(3, 8, place + 1)
        ax.imshow(images[i], cmap="gray_r")
        ax.set_axis_off()
        colour = "#b00020" if i in wrong else "#1c2330"
        truth = f", is {int(labels[i])}" if i in wrong else ""
        ax.set_title(f"{int(predicted[i])} ({confidence[i]:.0%}){truth}", fontsize=9, color=colour)
    figure.tight_layout()
    right = len(labels) - len(wrong)
    tour.figure(
        figure,
        f"What the model reads in held-out digits, and how sure it is: all {len(wrong)} errors first, in red, then "
        f"{len(shown) - len(wrong)} of the {right} that it reads right.",
    )
    tour.text(f"Right on {top1:.1f} % of {len(labels)} held-out digits.")
    tour.fact(f"{NAME}, held-out digits", f"{top1:.1f} % of {len(labels)} right")


@torch.inference_mode()
def features(tour: Tour) -> None:
    """The stages' feature maps of a photograph, in natural spatial order, as pictures."""
    photo = samples.photo("china").resize((480, 320))
    model = plm_core.create_model(NAME, pretrained=True, features_only=True).eval()
    pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(320, 480, 3)
    maps = model((pixels.permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5)
    figure = Figure(figsize=(9, 4.4))
    panels: list[tuple[str, Any]] = [
        ("the photo", photo),
        *((_title(m, i), _principal_colours(m)) for i, m in enumerate(maps)),
    ]
    for place, (title, image) in enumerate(panels):
        ax = figure.add_subplot(2, 2, place + 1)
        ax.imshow(image, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    figure.tight_layout()
    tour.text(
        "features_only=True gives each stage's map as a timm backbone does. The three strongest directions of each "
        "map are painted red, green and blue. This model has only ever seen digits, so what it shows are edges and "
        "strokes; the photo is larger than its training images, which Hiera takes as long as the sides are multiples "
        "of the mask unit."
    )
    tour.figure(
        figure,
        "A photograph (danielbuechele, CC BY 2.0) and the feature maps of the three stages of hiera_micro_digits.",
    )
    tour.fact("feature maps", ", ".join("x".join(map(str, m.shape[1:])) for m in maps))


def _title(m: Tensor, stage: int) -> str:
    return f"stage {stage + 1}: {m.shape[1]} channels, {m.shape[2]} x {m.shape[3]}"


def _principal_colours(m: Tensor) -> Any:
    """[1, C, H, W] -> [H, W, 3] in 0..1: the three principal components as colours."""
    flat = m[0].flatten(1).T
    flat = flat - flat.mean(0)
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    colours = flat @ directions[:3].T
    low, high = colours.quantile(0.01, 0), colours.quantile(0.99, 0)
    return ((colours - low) / (high - low)).clamp(0, 1).view(*m.shape[2:], 3).numpy()


@torch.inference_mode()
def abs_win(tour: Tour) -> None:
    """One model at twice its resolution: its embedding interpolated as a plain one is, and as Absolute Win does it."""
    fix: Any = plm_core.create_model(micro_abswin.NAME, pretrained=True).eval()
    bug: Any = plm_core.create_model(micro_abswin.PLAIN_NAME, pretrained=True).eval()
    rows = []
    for size in (32, 48, 64):
        held_out = micro_abswin.Placed("heldout", size, fixed=True)
        rows.append(
            {
                "resolution": f"{size} px",
                "plain, interpolated": f"{accuracy(bug, held_out):.1f} %",
                "Absolute Win": f"{accuracy(fix, held_out):.1f} %",
            }
        )
    tour.text(
        "Attention in windows turns a learned position embedding into a repeated tile. Interpolated to a larger input, "
        "the tiles no longer fit the windows. Absolute Win learns the tile and a global embedding apart: the one is "
        "tiled, the other interpolated. Two models, alike but for their positions, were trained to read digits "
        "anywhere on a canvas of 32 px; here they see digits of the same sizes on larger ones, not finetuned."
    )
    tour.code(ABS_WIN_CODE)
    tour.table(rows)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {
        "plain, trained at 8 x 8": bug.positions((8, 8)),
        "plain, interpolated to 16 x 16": bug.positions((16, 16)),
        "Absolute Win at 16 x 16": fix.positions((16, 16)),
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
        "The position embedding, its three strongest directions as colours; white lines are the attention windows. "
        "Interpolated, each window sees a stretched part of a tile; with Absolute Win each sees a whole one.",
    )
    tour.fact("top-1 at twice the resolution", f"{rows[-1]['plain, interpolated']} -> {rows[-1]['Absolute Win']}")


@torch.inference_mode()
def detection(tour: Tour) -> None:
    """Shapes found and cut out in held-out scenes by the micro detector."""
    model = plm_core.create_model(DETECTOR_NAME, pretrained=True).eval()
    world = shapes.Images("heldout", size=96, count=8)
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) / 255 for scene in world]
    predictions = model(images)
    names = dict(enumerate(shapes.SHAPES, 1))
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for ax, image, prediction in zip(figure.subplots(2, 4).flat, images, predictions, strict=True):
        ax.imshow(image.permute(1, 2, 0).numpy())
        for box, label, score, mask in zip(
            prediction["boxes"].tolist(),
            prediction["labels"].tolist(),
            prediction["scores"].tolist(),
            prediction["masks"],
            strict=True,
        ):
            if score >= 0.5:
                x0, y0, x1, y1 = box
                ax.add_patch(
                    Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="white", linewidth=1.5)
                )
                ax.contour(mask[0].numpy(), [0.5], colors=["#00e5ff"], linewidths=1)
                ax.text(
                    x0,
                    max(y0 - 2, 5),
                    f"{names[label]} {score:.2f}",
                    fontsize=7,
                    color="white",
                    backgroundcolor="#0008",
                )
        ax.set_axis_off()
    shown = sum(int((prediction["scores"] >= 0.5).sum()) for prediction in predictions)
    there = sum(len(scene.objects) for scene in world)
    tour.text(
        f"{DETECTOR_NAME} is a Mask R-CNN on a HieraDet trunk, in torchvision's detection framework: "
        f"{sum(p.numel() for p in model.parameters()):,} parameters in all."
    )
    tour.code(DETECTION_CODE)
    tour.figure(figure, f"Held-out scenes with what it finds: {shown} detections above 0.5 for {there} objects.")
    tour.fact("detections above 0.5 in 8 scenes", f"{shown}, of {there} objects")
