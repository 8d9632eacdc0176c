"""Hiera's stops on the tour."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import plm_core
from hiera.micro_digits import NAME, TOP1, evaluate
from plm_core import samples
from plm_core.tour import Tour

DIGITS_CODE = f'''import plm_core
import torch

model = plm_core.create_model("{NAME}", pretrained=True).eval()
preprocess = plm_core.transform_for(model)
images, labels = plm_core.samples.digits("heldout")
logits = model(torch.stack([preprocess(image) for image in images]))'''


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
