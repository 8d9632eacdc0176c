"""The stop of Gaze-LLE on ``plm tour``: a micro model tells what drawn figures look at."""

from __future__ import annotations

import math

import plm_core
from gazelle.estimation import Estimator
from gazelle.pictures import paint
from plm_core import shapes
from plm_core.tools.tour import Tour
from plm_core.utils import plots

NAME = "gazelle_micro_shapes"
SIZE, SCENES = 64, 4
NEAR = 0.1
"""The distance up to which a point counts as found, as a share of the picture."""
CODE = f"""import gazelle, plm_core

model = plm_core.create_model("{NAME}", pretrained=True)
estimator = gazelle.Estimator(model)
scene = estimator.encode(picture)                      # once
looks = estimator.look(scene, head_boxes)              # (x0, y0, x1, y1) in fractions, for any people
print(looks[0].point, looks[0].inside, looks[0].heatmap.shape)"""


def stop(tour: Tour) -> None:
    """Show what figures in held-out scenes look at, as a micro model sees it."""
    tour.text(
        "Gaze-LLE encodes a scene once, and asks a small decoder about each person, who is named by a head box. The "
        "answer is a map of where the person looks, and whether the target is inside the picture. This tiny model was "
        "trained on drawn figures. For photos there is plm gaze, with the weights of the original."
    )
    tour.code(CODE)
    estimator = Estimator(plm_core.create_model(NAME, pretrained=True))  # type: ignore[arg-type]
    figure = plots.figure("a picture", "plm-core[tour]", figsize=(2.6 * SCENES, 2.7), layout="constrained")
    inside = near = sides = people = 0
    for axes, scene in zip(figure.subplots(1, SCENES), shapes.Gazes("heldout", size=SIZE, count=SCENES), strict=True):
        boxes = [tuple(side / SIZE for side in person.head) for person in scene.people]
        looks = estimator(scene.image, boxes)
        axes.imshow(paint(scene.image, looks))
        axes.axis("off")
        for person, look in zip(scene.people, looks, strict=True):
            people += 1
            sides += (look.inside or 0) >= 0.5 if person.inside else (look.inside or 0) < 0.5
            if person.point is not None:
                inside += 1
                near += math.dist(look.point, [side / SIZE for side in person.point]) <= NEAR
    tour.figure(
        figure, "Held-out scenes. An arrow ends where the figure looks, and a dashed box means: out of the picture."
    )
    tour.fact("people of whom the model knows whether they look into the picture", f"{sides} of {people}")
    tour.fact(f"targets found within {NEAR:.0%} of the picture's side", f"{near} of {inside}")
