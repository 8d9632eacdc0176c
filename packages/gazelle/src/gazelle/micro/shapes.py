"""The recipe of ``gazelle_micro_shapes``, a Gaze-LLE of a third of a million parameters for the world of shapes.

``plm retrain gazelle_micro_shapes --out DIR`` runs `train`. Training needs the extra ``gazelle[train]``.

A small model finds out late what a nose has to do with a far object. So two linear layers, which are thrown away after
the training, ask in the meantime: one for the direction of each gaze, by the features of the head's cells, and one for
the cells on its ray, by the tokens before the last block of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import plm_core
from gazelle import targets
from gazelle.boxes import as_tensor, head_maps
from gazelle.configs import MICRO_SIZE, PAPER
from gazelle.metrics import Vat
from gazelle.recipes.training import Looker, parts_of, plain
from plm_core import shapes
from plm_core.training import Recipe, fit
from plm_core.training.micro import save_micro
from plm_core.utils.progress import track
from plm_core.utils.ranges import check_choice

NAME = "gazelle_micro_shapes"
SIZE = MICRO_SIZE
TRAIN = 10_000
"""Scenes to train on."""
HELD_OUT = 500
RECIPE = Recipe(epochs=6, batch_size=10, lr=1e-3, warmup_epochs=0.25)
HEATMAP = 20.0
"""Weight of the heatmap's loss, which is a mean over cells that are mostly empty, beside the in/out loss."""
DIRECTION, RAY = 1.0, 2.0
"""Weights of the two losses that help."""
RAY_WIDTH = 0.08
"""Standard deviation of the ray across, as a share of the picture."""
AUC, L2, AP = "held-out AUC", "held-out L2", "held-out in/out AP"
BOXES = ("right", "wrong", "none")
"""Whose head box a model is given: the person's own, that of another person, or none."""

Look = tuple[tuple[float, float, float, float], tuple[float, float], float]
"""A person: the head box in fractions, the gaze point in fractions or (-1, -1), and the direction in radians."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Scenes in memory.

    Attributes:
        pixels: uint8 [N, 3, 64, 64].
        people: The people of each scene.
    """

    pixels: Tensor
    people: tuple[tuple[Look, ...], ...]


@cache
def scenes(split: str, count: int) -> Pictures:
    """Draw scenes of one to three figures and two to four objects on plain grey."""
    world = shapes.Gazes(split, size=SIZE, count=count, background="plain")
    pixels = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    people: list[tuple[Look, ...]] = []
    for number, scene in enumerate(track(world, f"drawing {split} scenes", count)):
        pixels[number] = torch.from_numpy(scene.image).permute(2, 0, 1)
        people.append(tuple(_look(person) for person in scene.people))
    return Pictures(pixels, tuple(people))


def _look(person: Any) -> Look:
    x0, y0, x1, y1 = (side / SIZE for side in person.head)
    x, y = (-1.0, -1.0) if person.point is None else (side / SIZE for side in person.point)
    return (x0, y0, x1, y1), (x, y), person.angle


class Scenes(Dataset[tuple[Tensor, tuple[Look, ...]]]):
    """Scenes as (float [3, 64, 64] from -1 to 1, people). Half of them are flipped."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures.people)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[Look, ...]]:
        image, people = normalised(self.pictures.pixels[index]), self.pictures.people[index]
        if torch.rand(()) < 0.5:
            return image, people
        return image.flip(-1), tuple(flipped(person) for person in people)


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels, uint8, as float from -1 to 1."""
    return pixels / 127.5 - 1


def flipped(person: Look) -> Look:
    """Return a person in the mirror image of the scene."""
    (x0, y0, x1, y1), (x, y), angle = person
    return (1 - x1, y0, 1 - x0, y1), (x if x < 0 else 1 - x, y), torch.pi - angle


def collate(samples: Sequence[tuple[Tensor, tuple[Look, ...]]]) -> dict[str, Any]:
    """Collate samples of `Scenes`, as `gazelle.data.collate_people` does, and with ``directions`` [P, 2]."""
    people = [person for _, looks in samples for person in looks]
    angles = torch.tensor([angle for *_, angle in people])
    return {
        "images": torch.stack([image for image, _ in samples]),
        "boxes": [[box for box, *_ in looks] for _, looks in samples],
        "inout": torch.tensor([float(x >= 0) for _, (x, _), _ in people]),
        "heatmaps": torch.stack([targets.heatmap(x, y, 64, 64) for _, (x, y), _ in people]),
        "directions": torch.stack([angles.cos(), angles.sin()], 1),
    }


class Taught(Looker):
    """A model with the two layers that help it to learn."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.direction = nn.Linear(model.backbone.width, 2)
        self.ray = nn.Linear(model.dim, 1)

    def forward(self, images: Tensor, boxes: Any) -> Any:
        """Return what a `Looker` does, the directions [P, 2], and the logits of the cells on the rays [P, h, w]."""
        model: Any = self.model
        features = model.encode(images)
        tokens: list[Tensor] = []
        handle = model.transformer[-2].register_forward_hook(lambda _, __, output: tokens.append(output))
        try:
            heatmaps, scores = self.look(features, boxes)
        finally:
            handle.remove()
        grid = (features.shape[2], features.shape[3])
        heads = head_maps(as_tensor([box for some in boxes for box in some]), grid).to(features)
        image = torch.tensor([number for number, some in enumerate(boxes) for _ in some], device=features.device)
        means = torch.einsum("pchw,phw->pc", features[image], heads / heads.sum((1, 2), keepdim=True).clamp(min=1))
        rays = self.ray(torch.cat(tokens)[:, 1:]).unflatten(1, grid)[..., 0]
        return heatmaps, scores, self.direction(means), rays


def teaching_loss(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the weighted loss of a `Taught` model, and its parts."""
    heatmaps, scores, directions, rays = model(batch["images"], batch["boxes"])
    _, parts = parts_of(heatmaps, scores, batch)
    wanted = rays_of(batch["boxes"], batch["directions"], (rays.shape[1], rays.shape[2]))
    helps = {
        "direction": F.mse_loss(directions, batch["directions"]),
        "ray": F.binary_cross_entropy_with_logits(rays, wanted),
    }
    loss = HEATMAP * parts["heatmap"] + parts["inout"] + DIRECTION * helps["direction"] + RAY * helps["ray"]
    return loss, {**parts, **helps}


def rays_of(boxes: Any, directions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return how near the cells of a grid are to the ray of each gaze, from 0 to 1, [P, h, w].

    Args:
        boxes: For each image the list of its heads, at whose centres the rays begin.
        directions: (cos, sin) of the gazes, [P, 2].
        grid: Height and width.
    """
    heads = as_tensor([box for some in boxes for box in some]).to(directions)
    rows, columns = ((torch.arange(count, device=heads.device) + 0.5) / count for count in grid)
    right = columns - (heads[:, 0] + heads[:, 2])[:, None, None] / 2
    down = rows[:, None] - (heads[:, 1] + heads[:, 3])[:, None, None] / 2
    cos, sin = (directions[:, axis, None, None] for axis in (0, 1))
    across = right * sin - down * cos
    return torch.exp(-((across / RAY_WIDTH) ** 2) / 2) * (right * cos + down * sin > 0)


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train the decoder and the backbone, and write ``gazelle_micro_shapes.safetensors`` and its card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Random seed of initialisation, order and flips.

    Returns:
        The held-out scores, as `evaluate` returns them.

    Raises:
        MissingDependency: The extra gazelle[train] is not installed.
    """
    model = trained(seed)
    scores = evaluate(model)
    facts = {
        "Data": f"{TRAIN} scenes of {SIZE} px from plm_core.shapes, with one to three figures that look at two to four "
        f"objects, at one another or out of the picture. The scores are on {HELD_OUT} held-out ones.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `gazelle.micro.shapes`): {RECIPE.epochs:g} epochs, "
        f"batch {RECIPE.batch_size}, AdamW lr {RECIPE.lr}, cosine schedule, half of the scenes flipped. The backbone "
        "starts from its shipped weights and is trained too. Two linear layers that are not part of the model ask for "
        "the direction of each gaze and the cells on its ray.",
        **{f"Score, {name}": f"{value:.3f}" for name, value in scores.items()},
    }
    what = "trained to find what figures look at in the world of shapes"
    save_micro(model, kind=f"Gaze-LLE ({PAPER})", name=NAME, out=out, task="other", what=what, facts=facts)
    return scores


def trained(seed: int = 0, frozen: bool = False, **options: Any) -> Any:
    """Return a trained model in eval mode.

    Args:
        seed: Random seed.
        frozen: Whether the backbone keeps its shipped weights.
        **options: Keywords of `plm_core.training.fit`.
    """
    torch.manual_seed(seed)
    model: Any = plm_core.create_model(NAME, backbone_options={"pretrained": True}, frozen=frozen)
    data = Scenes(scenes("train", TRAIN))
    result = fit(Taught(model), data, teaching_loss, RECIPE, collate=collate, seed=seed, **options)
    model.load_state_dict(plain(result.state))
    return model.eval()


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the scores on held-out scenes: AUC, L2 and in/out AP as VideoAttentionTarget defines them."""
    return scores_of(model, "right")


@torch.no_grad()
def scores_of(model: Any, boxes: str = "right", least: int = 1) -> Mapping[str, float]:
    """Return the scores on held-out scenes.

    Args:
        model: The model.
        boxes: One of `BOXES`. The wrong box is that of the next person of the scene.
        least: The smallest number of people of the scenes that count. There is no wrong box with fewer than 2.
    """
    looker, pictures, meter = Looker(model.eval()), scenes("heldout", HELD_OUT), Vat()
    device = next(model.parameters()).device
    places = [number for number, people in enumerate(pictures.people) if len(people) >= least]
    for start in range(0, len(places), 100):
        some = places[start : start + 100]
        people = [pictures.people[place] for place in some]
        given = [_given([box for box, *_ in looks], boxes) for looks in people]
        heatmaps, scores = looker(normalised(pictures.pixels[some]).to(device), given)
        x, y = zip(*(point for looks in people for _, point, _ in looks), strict=True)
        meter.update(heatmaps, x, y, [float(value >= 0) for value in x], scores)
    found = meter.compute()
    return {AUC: found["auc"], L2: found["l2"], AP: found["inout_ap"]}


def _given(heads: list[Any], boxes: str) -> list[Any]:
    """Return the boxes that a model is given for the people of a scene."""
    check_choice("boxes", boxes, BOXES)
    return {"right": heads, "wrong": heads[1:] + heads[:1], "none": [None] * len(heads)}[boxes]
