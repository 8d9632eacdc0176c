"""The stop of parc on the tour."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from parc.ranking import Ranking, rank
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
    """Write images as PNG files, with one folder for each class, and return the folder."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def choose_model(tour: Tour) -> None:
    """Rank trained micro models and untrained test models of timm on handwritten digits."""
    tour.text(
        "To find the best model by fine-tuning all of them is expensive. A transferability score needs one forward "
        f"pass over a few labelled images. Here these are {BUDGET} handwritten digits, in one folder for each class. "
        "The micro models of this family were trained on digits or on drawn shapes. The test models of timm have "
        "random weights."
    )
    tour.code(CODE)
    images, labels = samples.digits("heldout")
    with tempfile.TemporaryDirectory() as folder:
        ranking = rank(export(images, labels.tolist(), Path(folder) / "digits"), MODELS, budget=BUDGET, cache=False)
    _show(tour, ranking)


def _show(tour: Tour, ranking: Ranking) -> None:
    rows = [{name: row[name] for name in COLUMNS} for row in ranking.table()]
    if not any(row["problem"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "problem"} for row in rows]
    tour.table(rows)
    picture = ranking.figure()
    picture.suptitle(f"digits: {ranking.about['images']} images, {ranking.about['classes']} classes", fontsize=10)
    tour.figure(
        picture,
        "Scores with 90 % intervals over images. The scales differ: compare models, not methods or datasets.",
    )
    tour.text(
        "The models that were trained on digits lead, which is no surprise and no proof. Scores only correlate with "
        "the results of fine-tuning, and the correlation is far from 1. In the paper's own benchmark, a model's "
        "accuracy on other data predicts the results nearly as well. The README of parc has the numbers. Fine-tune "
        "the first few models, not only the first."
    )
    tour.fact("first of " + str(len(ranking.models)), ranking.models[0])
