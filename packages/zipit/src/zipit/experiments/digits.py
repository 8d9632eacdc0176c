"""Networks that know some of the ten digits become one that knows all, as in the paper's study on CIFAR-10.

All networks are trained towards the same vectors of the classes, where the paper has the texts of a CLIP, so that their
outputs can be merged too. Statistics and batch norms see the training images of all tasks without their labels. The
options ``a`` and ``b`` are chosen for each place up to which networks are merged, by the joint accuracy on the test
images of two seeds that are not reported. Those seeds have other networks and other divisions of the images.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import zipit
from plm_core.utils import plots
from plm_core.utils.progress import track
from zipit.evaluation import Tasks, accuracy, class_scores, joined
from zipit.experiments.networks import ResNet, vit
from zipit.experiments.training import SCALE, Digits, Recipe, class_vectors, digits, train
from zipit.parts import Merged
from zipit.sweeping import EVERYTHING, Row, deviation, draw, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TUNING = (100, 101)
"""The seeds on which ``a`` and ``b`` are chosen."""
A = (0.01, 0.1, 0.3, 1.0)
B = (0.125, 0.5, 1.0)
BATCH = 100
ALONE, AVERAGE, ENSEMBLE = "model", "average", "ensemble"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "permute": {"method": "permute"},
    "zipit": {},
    "zipit, least squares": {"least_squares": True},
}
"""The options of each method that is measured up to every place."""
TUNED = tuple(name for name, options in METHODS.items() if "method" not in options)
"""The methods that ``a`` and ``b`` are chosen for."""
Best = Mapping[tuple[str, str | None], Mapping[str, float]]
"""The ``a`` and ``b`` of a method up to a place."""


@dataclass(frozen=True)
class Study:
    """Networks that are merged.

    Attributes:
        title: What is merged, in words.
        tasks: The classes of each network.
        network: Makes a network.
        recipe: How it is trained.
        cuts: The places up to which networks are merged, besides all of them.
    """

    title: str
    tasks: Tasks
    network: Callable[[], nn.Module]
    recipe: Recipe
    cuts: tuple[str, ...]

    @property
    def places(self) -> list[str | None]:
        """Return the values of ``until``, the longest merge first."""
        return [None, *reversed(self.cuts)]


_SGD = Recipe(partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), epochs=25)
_ADAMW = Recipe(partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.05), epochs=60)
_STAGES = ("layer2.conv1", "layer3.conv1", "linear")
STUDIES: Mapping[str, Study] = {
    "two": Study("two ResNets, 5 + 5 digits", (range(5), range(5, 10)), ResNet, _SGD, _STAGES),
    "three": Study("three ResNets, 4 + 3 + 3 digits", (range(4), range(4, 7), range(7, 10)), ResNet, _SGD, _STAGES),
    "vit": Study(
        "two ViTs, 5 + 5 digits",
        (range(5), range(5, 10)),
        vit,
        _ADAMW,
        ("blocks.0.norm1", "blocks.1.norm1", "blocks.2.norm1", "norm"),
    ),
}


def measure(study: Study, seeds: Sequence[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Choose ``a`` and ``b``, and merge the networks of each seed in every way.

    Returns:
        The grid: see `tune`.
        The results: rows of ``seed``, ``method``, ``until``, ``flops`` (as a share of those of all networks), ``joint``
        and ``average`` (of the tasks), in percent, and ``tasks``, those of each. Those of `TUNED` methods have ``a``
        and ``b``.
    """
    grid = tune(study)
    return grid, [row for seed in track(seeds, study.title) for row in results(study, seed, best_of(grid))]


def tune(study: Study) -> list[dict[str, Any]]:
    """Merge the networks of the seeds that are not reported, with each ``a`` and ``b``.

    Returns:
        Rows of ``method``, ``until``, ``a``, ``b`` and ``joint``, the mean over the seeds.
    """
    tuned = []
    for seed in TUNING:
        data, models = networks(study, seed)
        tuned.append((data, zipit.Observed(models, data.train.split(BATCH), progress=False)))
    grid = []
    for method, until, a, b in track(list(itertools.product(TUNED, study.places, A, B)), f"{study.title}: a and b"):
        scores = []
        for data, seen in tuned:
            merged = seen.merge(until=until, a=a, b=b, **METHODS[method])
            scores.append(score(merged, data, study.tasks)["joint"])
        grid.append({"method": method, "until": until, "a": a, "b": b, "joint": statistics.mean(scores)})
    return grid


def best_of(grid: Sequence[Row]) -> Best:
    """Return the ``a`` and ``b`` with the best joint accuracy, the first of equal ones, for each method and place."""
    best: dict[tuple[str, str | None], Row] = {}
    for row in grid:
        key = (row["method"], row["until"])
        if key not in best or row["joint"] > best[key]["joint"]:
            best[key] = row
    return {key: {"a": row["a"], "b": row["b"]} for key, row in best.items()}


def results(study: Study, seed: int, best: Best) -> list[dict[str, Any]]:
    """Merge the networks of a seed in every way, and compare them with each alone and with all together."""
    data, models = networks(study, seed)
    seen = zipit.Observed(models, data.train.split(BATCH), progress=False)
    evaluate = partial(score, data=data, tasks=study.tasks)
    rows: list[dict[str, Any]] = []
    for number, model in enumerate(models, 1):
        rows.append({"method": f"{ALONE} {number}", "until": None, "flops": 1 / len(models), **evaluate(model)})
    (row,) = rows_of(seen, evaluate, method="identity", cuts=[None], progress=False)
    rows.append({"method": AVERAGE, **row})
    for method, options in METHODS.items():
        for until in study.places:
            chosen: Mapping[str, Any] = best.get((method, until), {})
            (row,) = rows_of(seen, evaluate, cuts=[until], progress=False, **options, **chosen)
            rows.append({"method": method, **chosen, **row})
    rows.append({"method": ENSEMBLE, "until": None, "flops": 1.0, **evaluate(Merged(nn.Identity(), models))})
    return [{"seed": seed, **row} for row in rows]


def networks(study: Study, seed: int) -> tuple[Digits, list[nn.Module]]:
    """Train the networks of a seed, and let their batch norms see the images of all tasks."""
    data = digits(seed)
    models = [
        train(study.network, data, list(task), study.recipe, len(study.tasks) * seed + number)
        for number, task in enumerate(study.tasks)
    ]
    for model in models:
        zipit.reset_norms(model, data.train.split(BATCH))
    return data, models


@torch.no_grad()
def score(model: nn.Module, data: Digits, tasks: Tasks) -> dict[str, Any]:
    """Return the accuracies of a model, or of one with heads, on the test images.

    The cosines of one output are compared as they are. Those of each head are made probabilities of its own classes.
    """
    vectors = class_vectors()
    output = model(data.test)
    if isinstance(output, list):
        scores = joined([class_scores(head, vectors, SCALE) for head in output], tasks)
    else:
        scores = class_scores(output, vectors, SCALE)
    found = accuracy(scores, data.test_labels, tasks)
    return {"joint": found.joint, "average": found.average, "tasks": found.tasks}


def grid_table(grid: Sequence[Row]) -> str:
    """Return the grid as a Markdown table."""
    heads = ["", "merged up to", "a", *(f"b = {b:g}" for b in B)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    by = {(row["method"], row["until"], row["a"], row["b"]): row["joint"] for row in grid}
    for method, until, a in dict.fromkeys((row["method"], row["until"], row["a"]) for row in grid):
        shown = " | ".join(f"{by[method, until, a, b]:.1f}" for b in B)
        lines.append(f"| {method} | {_place(until)} | {a:g} | {shown} |")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """Return the means over the seeds as a Markdown table, with standard deviations."""
    count = len(rows[0]["tasks"])
    heads = ["", "merged up to", "FLOPs", "joint", *(f"task {n + 1}" for n in range(count)), "average of tasks"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, until in dict.fromkeys((row["method"], row["until"]) for row in rows):
        found = [row for row in rows if (row["method"], row["until"]) == (method, until)]
        scores = [
            [row["joint"] for row in found],
            *([row["tasks"][n] for row in found] for n in range(count)),
            [row["average"] for row in found],
        ]
        place = _place(until) if method in (AVERAGE, *METHODS) else ""
        name = f"{method}, a = {found[0]['a']:g}, b = {found[0]['b']:g}" if "a" in found[0] else method
        shown = [f"{statistics.mean(x):.1f} ± {deviation(x):.1f}" for x in scores]
        cost = f"{100 * found[0]['flops']:.0f} %"
        lines.append(f"| {' | '.join([name, place, cost, *shown])} |")
    return "\n".join(lines)


def _place(until: str | None) -> str:
    return f"`{until}`" if until else EVERYTHING


def plot(found: Mapping[str, Sequence[Row]]) -> Figure:
    """Plot the joint accuracy against the FLOPs, one study beside the other."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(3.2 * len(found), 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, rows) in zip(panels, found.items(), strict=True):
        curves = {method: [row for row in rows if row["method"] == method] for method in METHODS}
        alone = [row["joint"] for row in rows if row["method"].startswith(ALONE)]
        lines = {
            ENSEMBLE: statistics.mean(row["joint"] for row in rows if row["method"] == ENSEMBLE),
            "a model alone": statistics.mean(alone),
            "average of the weights": statistics.mean(row["joint"] for row in rows if row["method"] == AVERAGE),
        }
        draw(axes, curves, lines, "joint")
        axes.set_title(STUDIES[name].title, fontsize=9)
        axes.set_ylabel("")
    panels[0].set_ylabel("joint accuracy, %")
    panels[-1].legend(frameon=False, fontsize=7)
    return figure
