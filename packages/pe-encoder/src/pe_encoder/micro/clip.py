"""The recipe of ``pe_micro_clip``, a CLIP of half a million parameters for the world of shapes.

``plm retrain pe_micro_clip --out DIR`` runs `train`. Training needs the extra ``pe-encoder[train]``.

Eight of the 80 pairs of a colour and a shape are left out of the training: no scene has such an object, and no caption
names one. The model has to put them together from colours and shapes that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

import plm_core
from pe_encoder.configs import PAPER
from pe_encoder.recipes.contrastive import train_contrastive
from pe_encoder.recipes.tables import CONTRASTIVE
from pe_encoder.retrieval import recalls
from pe_encoder.zeroshot import embed_classes, logits
from plm_core import shapes
from plm_core.shapes import COLOURS, SHAPES
from plm_core.shapes.scenes import Scene
from plm_core.training.micro import save_micro
from plm_core.utils.progress import track

NAME = "pe_micro_clip"
SIZE = 48
LARGE = 22_000
"""Training scenes of one large object."""
MIXED = 14_000
"""Training scenes of one to four objects."""
HELD_OUT = 400
"""Held-out scenes for the zero-shot score."""
CAPTIONS = 200
"""Held-out captions for the score of retrieval."""
SHARES = torch.tensor([0.35, 0.35, 0.3])
"""How often each of the captions of a scene is drawn, see `captions_of`."""
PALENESS = 0.85
"""The most that the saturation of the colours is reduced, by a uniform draw."""
CONFIG = CONTRASTIVE["micro"]

UNSEEN = frozenset(zip(SHAPES, ("orange", "purple", "pink", "cyan") * 2, strict=True))
"""The pairs of a shape and a colour that no training scene has: one colour for each shape."""
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""The names of all pairs, for zero-shot classification."""
TEMPLATE = "a photo of a {}"
ZERO_SHOT = "zero-shot top-1 % on unseen pairs of colour and shape, 80 classes"
RETRIEVAL = "text-to-image recall@1 % among 200 held-out captions"


def seen(scene: Scene) -> bool:
    """Return whether a scene has no object with an unseen pair of shape and colour."""
    return not any((thing.shape, thing.colour) in UNSEEN for thing in scene.objects)


def alone(scene: Scene) -> bool:
    """Return whether a scene has one object, and a large one."""
    return len(scene.objects) == 1 and scene.objects[0].size == "large"


def captions_of(scene: Scene) -> tuple[str, str, str]:
    """Return a scene's own caption, one with colours and shapes, and one with the shapes alone."""
    coloured = [f"a {thing.colour} {thing.shape}" for thing in scene.objects]
    plain = [f"a {thing.shape}" for thing in scene.objects]
    return scene.caption, f"a photo of {_listed(coloured)}", f"a photo of {_listed(plain)}"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


class Scenes(Dataset[tuple[Tensor, str]]):
    """Scenes on plain grey as (float [3, 48, 48] from -1 to 1, caption), with one of three captions at random.

    With a caption that names no colours, the picture has none either. Otherwise its colours are more or less pale, so
    that shapes are learned apart from colours.

    Args:
        split: "train" or "heldout".
        count: Number of scenes.
        objects: Smallest and largest number of objects.
        wanted: Function that tells whether a scene is wanted. The first ones that are wanted are taken.

    Attributes:
        pixels: The pictures, uint8 [count, 3, 48, 48].
        captions: The three captions of each scene, see `captions_of`.
    """

    def __init__(self, split: str, count: int, objects: tuple[int, int], wanted: Callable[[Scene], bool]) -> None:
        world = shapes.Images(split, size=SIZE, count=100 * count, objects=objects, background="plain")
        found = islice((scene for scene in world if wanted(scene)), count)
        self.pixels = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
        self.captions: list[tuple[str, str, str]] = []
        for i, scene in enumerate(track(found, f"drawing {split} scenes", count)):
            self.pixels[i] = torch.from_numpy(scene.image).permute(2, 0, 1)
            self.captions.append(captions_of(scene))

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        which = int(torch.multinomial(SHARES, 1))
        pixels = normalised(self.pixels[index])
        grey = pixels.mean(0, keepdim=True)
        saturation = 0.0 if which == 2 else 1 - PALENESS * float(torch.rand(()))
        return grey + saturation * (pixels - grey), self.captions[index][which]


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels, uint8, as float from -1 to 1."""
    return pixels / 127.5 - 1


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train from scratch, and write ``pe_micro_clip.safetensors`` and its model card into ``out``.

    Args:
        out: Folder for the two files.
        seed: Random seed of initialisation, order and captions.

    Returns:
        The held-out scores, as `evaluate` returns them.

    Raises:
        MissingDependency: The extra pe-encoder[train] is not installed.
    """
    torch.manual_seed(seed)
    model: Any = plm_core.create_model(NAME)
    large = Scenes("train", LARGE, (1, 1), lambda scene: seen(scene) and alone(scene))
    data: Any = ConcatDataset([large, Scenes("train", MIXED, (1, 4), seen)])
    train_contrastive(model, data, CONFIG, seed=seed)
    scores = evaluate(model)
    recipe = CONFIG.recipe
    unseen = ", ".join(f"{colour} {shape}" for shape, colour in sorted(UNSEEN))
    facts = {
        "Data": f"{LARGE} scenes of {SIZE} px with one large shape and {MIXED} with one to four shapes, on plain grey, "
        "from plm_core.shapes. A caption names sizes, colours, shapes and, of two shapes, their places; or colours and "
        'shapes ("a photo of a red circle"); or shapes alone, and then the picture is grey. No scene has one of these: '
        f"{unseen}.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `pe_encoder.micro.clip`), with the preset `micro` of "
        f"`pe-contrastive`: {recipe.epochs:g} epochs, batch {recipe.batch_size}, AdamW lr {recipe.lr}, weight decay "
        f"{recipe.weight_decay}, cosine schedule, colours made pale at random.",
        "Held-out zero-shot top-1": f"{scores[ZERO_SHOT]:.2f} % on {HELD_OUT} scenes of one large shape, all of the "
        f'pairs above, among all 80 pairs, by "{TEMPLATE}"',
        "Held-out text-to-image recall@1": f"{scores[RETRIEVAL]:.2f} % among {CAPTIONS} scenes of one to four shapes "
        "with different captions, by plain cosines",
    }
    what = "trained from scratch on captioned scenes of shapes"
    kind = f"CLIP with the towers of the Perception Encoder ({PAPER})"
    save_micro(model, kind=kind, name=NAME, out=out, task="zero-shot-image-classification", what=what, facts=facts)
    return scores


def evaluate(model: Any) -> Mapping[str, float]:
    """Return the scores in % on held-out scenes: zero-shot classification of unseen pairs, and retrieval."""
    model = model.eval()
    return {ZERO_SHOT: _zero_shot(model), RETRIEVAL: _retrieval(model)}


@torch.no_grad()
def _zero_shot(model: Any) -> float:
    scenes = Scenes("heldout", HELD_OUT, (1, 1), lambda scene: alone(scene) and not seen(scene))
    right = torch.tensor([CLASSES.index(short.removeprefix("a photo of a ")) for _, short, _ in scenes.captions])
    weight = embed_classes(model, CLASSES, TEMPLATE)
    found = logits(_embedded(model, scenes.pixels), weight).argmax(1)
    return 100 * (found.cpu() == right).double().mean().item()


@torch.no_grad()
def _retrieval(model: Any) -> float:
    scenes = Scenes("heldout", 2 * CAPTIONS, (1, 4), lambda scene: True)
    first: dict[str, int] = {}
    for place, (caption, *_) in enumerate(scenes.captions):
        first.setdefault(caption, place)
    places = list(first.values())[:CAPTIONS]
    ids = model.tokenizer()(list(first)[:CAPTIONS]).to(model.logit_scale.device)
    owner = torch.arange(len(places), device=ids.device)
    shares = recalls(model.encode_text(ids), _embedded(model, scenes.pixels[places]), owner=owner, ks=(1,), dsl=None)
    return 100 * shares["image_retrieval_recall@1"]


def _embedded(model: Any, pixels: Tensor) -> Tensor:
    images = normalised(pixels).to(model.logit_scale.device)
    return torch.cat([model.encode_image(part) for part in images.split(100)])
