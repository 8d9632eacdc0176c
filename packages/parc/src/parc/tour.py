"""parc's stop on the tour."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from parc.ranking import Ranking, rank
from parc.ranking.report import figure, table
from plm_core import samples
from plm_core.tools.tour import Tour

MODELS = (
    "hiera_micro_digits",
    "hiera_micro_abswin",
    "hiera_micro_plain",
    "hiera_micro_shapes",
    "tome_micro_shapes",
    "random:test_resnet",
    "random:test_vit",
)
BUDGET = 100
COLUMNS = ("rank", "model", "parc", "logme", "knn", "size", "extract, s", "problem")

CODE = f"""import parc

ranking = parc.rank("digits/", {["hiera_micro_*", "tome_micro_shapes", "random:test_resnet"]}, budget={BUDGET})
ranking.save("ranking.png")  # or .csv, .json, .md"""


def export(images: Iterable[Image.Image], labels: Iterable[int], folder: Path) -> Path:
    """Write images as PNG, one folder for each class."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def ranking(tour: Tour) -> None:
    """Which models suit handwritten digits: trained micro models of the hub and timm's test nets of random weights."""
    tour.text(
        "Fine-tuning every model to find the best is dear. A transferability score needs one forward pass over a few "
        f"labelled images: here {BUDGET} handwritten digits in a folder for each class, on which the hub's micro "
        "models, which were trained on digits or on drawn shapes, meet timm nets that were trained on nothing."
    )
    tour.code(CODE)
    images, labels = samples.digits("heldout")
    with tempfile.TemporaryDirectory() as folder:
        found = rank(export(images, labels.tolist(), Path(folder) / "digits"), MODELS, budget=BUDGET, cache=False)
    _show(tour, found)


def _show(tour: Tour, found: Ranking) -> None:
    rows = [{name: row[name] for name in COLUMNS} for row in table(found)]
    if not any(row["problem"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "problem"} for row in rows]
    tour.table(rows)
    picture = figure(found)
    picture.suptitle(f"digits: {found.about['images']} images, {found.about['classes']} classes", fontsize=10)
    tour.figure(
        picture, "Scores with intervals of 90 % over images. Scales differ: compare models, not methods or datasets."
    )
    tour.text(
        "That models which were trained on digits lead is no surprise and no proof. Scores are correlations with what "
        "fine-tuning gives, far from 1, and the paper's own benchmark is predicted nearly as well by a model's "
        "accuracy on other data. The package's README has the numbers; fine-tune the first few, not only the first."
    )
    tour.fact("first of " + str(len(found.models)), found.models[0])
