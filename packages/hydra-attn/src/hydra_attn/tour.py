"""The stop of Hydra Attention on ``plm tour``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import plm_core
from hydra_attn import scaling
from hydra_attn.micro.shapes import NAME, SIZE
from hydra_attn.pictures import attention
from plm_core.shapes import SHAPES
from plm_core.tools.tour import Tour
from plm_core.training.micro import large_shapes
from plm_core.utils import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENS = (256, 512, 1024, 2048)
DIM, NUM_HEADS = 192, 3  # a ViT-tiny's
ROUNDS = 4
SCENES = 4

CODE = f'''import hydra_attn
from hydra_attn import pictures

hydra_attn.apply(vit, layers=2)  # in any ViT; it has to be trained then
model = plm_core.create_model("{NAME}", pretrained=True).eval()  # a micro model that was trained with Hydra
picture, shown = pictures.attention(model, image)'''


def stop(tour: Tour) -> None:
    """Show that Hydra's time grows with the tokens and the softmax's with their square, and what Hydra looks at."""
    tour.text(
        "Softmax attention compares each token with each other one, so four times the pixels cost sixteen times as "
        "much. Hydra Attention makes every feature a head of its own. What is left of the comparison is one sum over "
        f"all tokens. Here both attend to one image of {DIM} features per token, as a ViT-tiny has."
    )
    rows = scaling.measure(TOKENS, DIM, NUM_HEADS, ROUNDS)
    tour.figure(scaling.plot(rows), "Time for one image, measured just now: attention alone, and with its projections.")
    last = [row for row in rows if row["tokens"] == TOKENS[-1]]
    for row in last:
        tour.fact(f"time of the {row['part']} at {TOKENS[-1]} tokens", f"{row['ratio']:.2f} of that with the softmax")
    tour.text(
        "A model has to be trained with Hydra in it. This one was, with Hydra in its last two of six blocks. Red "
        "patches speak for the class that it predicts, and blue ones against it."
    )
    tour.code(CODE)
    model: Any = plm_core.create_model(NAME, pretrained=True).eval()
    pictures, captions = [], []
    for scene, label in zip(*large_shapes("heldout", SIZE, SCENES), strict=True):
        picture, shown = attention(model, Image.fromarray(scene.movedim(0, -1).numpy()))
        pictures.append(picture)
        captions.append(f"a {SHAPES[label]}: {SHAPES[shown['class']]} {shown['probability']:.0%}")
    tour.figure(
        _figure(pictures, captions),
        "Held-out scenes and what the class token takes from each patch, with the shape and the prediction above.",
    )


def _figure(pictures: list[Image.Image], captions: list[str]) -> Figure:
    figure = plots.figure("the tour", "plm-core[tour]", figsize=(2.6 * len(pictures), 1.6), layout="constrained")
    for ax, picture, caption in zip(figure.subplots(1, len(pictures)), pictures, captions, strict=True):
        ax.imshow(np.asarray(picture), interpolation="nearest")
        ax.set_title(caption, fontsize=9)
        ax.set_axis_off()
    return figure
