"""The stops of the Perception Encoder on ``plm tour``."""

from __future__ import annotations

from typing import Any

import plm_core
from pe_encoder.experiments import pictures
from pe_encoder.micro.clip import CLASSES, NAME, TEMPLATE
from plm_core.tools.tour import Tour

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


def zero_shot(tour: Tour) -> None:
    """Show which texts a CLIP chooses for scenes with pairs of colour and shape that its training did not have."""
    tour.text(
        "PE-Core embeds pictures and texts in one space, so a text is a classifier. This tiny one was trained on "
        "captions of coloured shapes, in which some pairs of a colour and a shape never came up. The scenes below show "
        f"these pairs, and all {len(CLASSES)} pairs are to choose from."
    )
    tour.code(ZERO_SHOT)
    figure, right = pictures.zero_shot(_model())
    tour.figure(
        figure,
        "Held-out scenes with unseen pairs. Above each is what it shows, and below that the text that was chosen.",
    )
    tour.fact("texts chosen for unseen pairs of colour and shape", f"{right} of {pictures.SCENES} right")


def text_map(tour: Tour) -> None:
    """Show where in a scene each of two objects is, by texts that name them."""
    tour.text(
        "The projection to the space of texts is learned for a whole picture. It says nothing of a patch unless the "
        "patch goes the same way: through the attention pool, with its neighbours, and through the pool's MLP. Then "
        "each patch can be compared with texts, and gets the one that fits best. The background gets one, too."
    )
    tour.code(DENSE)
    figure, share = pictures.text_map(_model())
    tour.figure(figure, "Held-out scenes of two objects, and the text of each place.")
    tour.fact("pixels of two objects that the right text gets", f"{share:.0%}")


def features(tour: Tour) -> None:
    """Show the features of an inner layer as colours."""
    tour.text(
        "The best features for a task are often inside the network. forward_features stops at any layer. Here the "
        "three main components of a layer's features become lightness, chroma and hue: patches of one colour are alike."
    )
    tour.code(FEATURES)
    figure, patches = pictures.features(_model())
    tour.figure(figure, f"Features of the last but one layer of {NAME}.")
    tour.fact("patches whose features were painted", str(patches))


def _model() -> Any:
    return plm_core.create_model(NAME, pretrained=True).eval()
