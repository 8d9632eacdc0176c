"""Questions about a picture. Each has one right answer, with a margin that a small model can see.

Answers are balanced: yes and no are as frequent, what is asked about is chosen so that each answer has its share, and
a wrong detail is one that could as well be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, permutations
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from plm_core.shapes import graph
from plm_core.shapes.questions.asking import Question, article, coin, pick_weighted, region_text
from plm_core.shapes.scenes import Object, Scene
from plm_core.shapes.words import COLOURS, SHAPES, SIZES

# Lengths are fractions of the picture's side.
APART = 0.15  # two centres are at least this far apart along the axis of a relation
CLEAR = 0.05  # a centre is at least this far from the border of a third or a quarter
ORDER = 0.05  # the centres of a list from left to right are at least this far apart
LARGER = 1.3  # of two objects, one has so many times the longer side of the other's box, and of its pixels
# A question about a rare answer is asked more often where it is possible, so that the answers are about as frequent.
COUNT_WEIGHTS: Mapping[int, float] = MappingProxyType({0: 0.24, 1: 0.2, 2: 1.0, 3: 6.0, 4: 20.0})
THIRD_WEIGHTS: Mapping[int, float] = MappingProxyType({0: 1.0, 1: 0.5, 2: 1.0})
RELATIONS = ((0, "left of", "right of"), (1, "above", "below"))  # the axis, and the words for less and for more
THIRDS = ((0, ("left", "middle", "right")), (1, ("top", "middle", "bottom")))
Make: TypeAlias = Callable[[np.random.Generator, Scene], Question | None]


def ask_picture(rng: np.random.Generator, scene: Scene, kinds: Sequence[str]) -> tuple[Question, ...]:
    """Ask a question of each kind, except for those that the picture has no clear answer to."""
    asked = (PICTURE_KINDS[kind](rng, scene) for kind in kinds)
    return tuple(question for question in asked if question is not None)


def ask_pair(rng: np.random.Generator, first: Scene, second: Scene) -> Question | None:
    """Ask which of two pictures shows an object that only one of them has; None if they show the same objects."""
    here, there = ({_name(thing) for thing in scene.objects} for scene in (first, second))
    names = {"first": sorted(here - there), "second": sorted(there - here)}
    answer = pick_weighted(rng, names, {"first": 1, "second": 1})
    if answer is None:
        return None
    thing = graph.pick(rng, names[answer])
    return Question(
        kind="pair", question=f"which picture has {article(thing)}, the first or the second?", answer=answer
    )


def _name(thing: Object) -> str:
    """Return the words that mean one object of a scene, for example "red circle"."""
    return f"{thing.colour} {thing.shape}"


def _centre(scene: Scene, thing: Object) -> tuple[float, float]:
    """Return the centre of the box of an object, from 0 to 1."""
    height, width = scene.image.shape[:2]
    x0, y0, x1, y1 = thing.box
    return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height


def _from_left(scene: Scene) -> list[Object] | None:
    """Return the objects from left to right, or None if the order of two is not clear."""
    things = sorted(scene.objects, key=lambda thing: _centre(scene, thing)[0])
    places = [_centre(scene, thing)[0] for thing in things]
    return things if all(b - a >= ORDER for a, b in pairwise(places)) else None


def _caption(rng: np.random.Generator, scene: Scene) -> Question | None:
    things = _from_left(scene)
    if things is None:
        return None
    *most, last = (article(_name(thing)) for thing in things)
    answer = f"{', '.join(most)} and {last}" if most else last
    return Question(kind="caption", question="list the shapes from left to right.", answer=answer)


def _description(rng: np.random.Generator, scene: Scene) -> Question | None:
    things = _from_left(scene)
    if things is None:
        return None
    names = [f"{thing.size} {_name(thing)}" for thing in things]
    if len(names) == 1:
        answer = f"there is 1 shape. it is a {names[0]}."
    else:
        relations = (f"the {a} is left of the {b}." for a, b in pairwise(names))
        answer = " ".join([f"there are {len(names)} shapes.", *relations])
    return Question(kind="description", question="describe the picture from left to right.", answer=answer)


def _exists(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Ask for an object of the scene, or for one that differs from it in its colour or shape alone."""
    names = {_name(thing) for thing in scene.objects}
    index = graph.pick(rng, range(len(scene.objects)))
    thing = scene.objects[index]
    if coin(rng):
        return Question(kind="exists", question=f"is there {article(_name(thing))}?", answer="yes", object=index)
    recoloured = [f"{colour} {thing.shape}" for colour in COLOURS]
    reshaped = [f"{thing.colour} {shape}" for shape in SHAPES]
    absent = [name for name in (recoloured if coin(rng) else reshaped) if name not in names]
    return Question(kind="exists", question=f"is there {article(graph.pick(rng, absent))}?", answer="no")


def _relation(rng: np.random.Generator, scene: Scene) -> Question | None:
    clear = [
        (a, b, words, difference)
        for a, b in permutations(scene.objects, 2)
        for axis, *words in RELATIONS
        if abs(difference := _centre(scene, a)[axis] - _centre(scene, b)[axis]) >= APART
    ]
    if not clear:
        return None
    a, b, words, difference = graph.pick(rng, clear)
    yes = coin(rng)
    relation = words[(difference > 0) == yes]
    question = f"is the {_name(a)} {relation} the {_name(b)}?"
    return Question(kind="relation", question=question, answer="yes" if yes else "no")


def _count(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Ask for the number of all objects, or of those of one colour or size."""
    things = scene.objects
    subject = graph.pick(rng, ("all", "colour", "size"))
    if subject == "all":
        return Question(kind="count", question="how many shapes are there?", answer=str(len(things)))
    words = COLOURS if subject == "colour" else SIZES
    counts: dict[int, list[str]] = {}
    for word in words:
        counts.setdefault(sum(word in (thing.colour, thing.size) for thing in things), []).append(word)
    answer = pick_weighted(rng, counts, COUNT_WEIGHTS)
    if answer is None:
        return None
    word = graph.pick(rng, counts[answer])
    return Question(kind="count", question=f"how many shapes are {word}?", answer=str(answer))


def _colour(rng: np.random.Generator, scene: Scene) -> Question | None:
    found = _single(rng, scene, lambda thing: (thing.shape,), lambda thing: (thing.size, thing.shape))
    if found is None:
        return None
    index, words = found
    question = f"what colour is the {' '.join(words)}?"
    return Question(kind="colour", question=question, answer=scene.objects[index].colour, object=index)


def _shape(rng: np.random.Generator, scene: Scene) -> Question | None:
    found = _single(rng, scene, lambda thing: (thing.colour,), lambda thing: (thing.size, thing.colour))
    if found is None:
        return None
    index, words = found
    question = f"what shape is {' and '.join(words)}?"
    return Question(kind="shape", question=question, answer=scene.objects[index].shape, object=index)


def _single(
    rng: np.random.Generator, scene: Scene, *phrases: Callable[[Object], tuple[str, ...]]
) -> tuple[int, tuple[str, ...]] | None:
    """Choose an object and words that mean only it: the first of its phrases that no other object shares."""
    single = []
    for index, thing in enumerate(scene.objects):
        for phrase in phrases:
            if sum(phrase(other) == phrase(thing) for other in scene.objects) == 1:
                single.append((index, phrase(thing)))
                break
    return graph.pick(rng, single) if single else None


def _size(rng: np.random.Generator, scene: Scene) -> Question | None:
    sizes = {size: [i for i, thing in enumerate(scene.objects) if thing.size == size] for size in SIZES}
    answer = pick_weighted(rng, sizes, {"small": 0.7, "large": 1.0})
    if answer is None:
        return None
    index = graph.pick(rng, sizes[answer])
    question = f"is the {_name(scene.objects[index])} small or large?"
    return Question(kind="size", question=question, answer=answer, object=index)


def _comparison(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Ask for the larger of two objects, or for the smaller. A large square can be as wide as a small circle."""
    pairs = [(a, b) for a, b in permutations(scene.objects, 2) if _clearly_larger(a, b)]
    if not pairs:
        return None
    larger, smaller = (f"the {_name(thing)}" for thing in graph.pick(rng, pairs))
    word, answer = graph.pick(rng, (("larger", larger), ("smaller", smaller)))
    options = (larger, smaller) if coin(rng) else (smaller, larger)
    return Question(kind="comparison", question=f"which is {word}?", answer=answer, options=options)


def _clearly_larger(a: Object, b: Object) -> bool:
    sides = [max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) for thing in (a, b)]
    return sides[0] >= LARGER * sides[1] and bool(a.mask.sum() >= LARGER * b.mask.sum())


def _quarter(rng: np.random.Generator, scene: Scene) -> Question | None:
    quarters: dict[str, list[int]] = {}
    for index, thing in enumerate(scene.objects):
        x, y = _centre(scene, thing)
        if min(abs(x - 0.5), abs(y - 0.5)) >= CLEAR:
            quarters.setdefault(f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}", []).append(index)
    answer = pick_weighted(rng, quarters, dict.fromkeys(sorted(quarters), 1.0))
    if answer is None:
        return None
    index = graph.pick(rng, quarters[answer])
    question = f"in which quarter of the picture is the {_name(scene.objects[index])}?"
    return Question(kind="quarter", question=question, answer=answer, object=index)


def _third(rng: np.random.Generator, scene: Scene) -> Question | None:
    axis, words = graph.pick(rng, THIRDS)
    thirds: dict[int, list[int]] = {}
    for index, thing in enumerate(scene.objects):
        place = _centre(scene, thing)[axis]
        if min(abs(place - 1 / 3), abs(place - 2 / 3)) >= CLEAR:
            thirds.setdefault(int(place * 3), []).append(index)
    answer = pick_weighted(rng, thirds, THIRD_WEIGHTS)
    if answer is None:
        return None
    index = graph.pick(rng, thirds[answer])
    low, middle, high = words
    question = f"is the {_name(scene.objects[index])} at the {low}, in the {middle} or at the {high}?"
    return Question(kind="third", question=question, answer=words[answer], object=index)


def _region(rng: np.random.Generator, scene: Scene) -> Question | None:
    index = graph.pick(rng, range(len(scene.objects)))
    thing = scene.objects[index]
    question = f"what is in {region_text(thing.box, len(scene.image))}?"
    return Question(kind="region", question=question, answer=article(_name(thing)), object=index, box=thing.box)


def _locate(rng: np.random.Generator, scene: Scene) -> Question | None:
    index = graph.pick(rng, range(len(scene.objects)))
    thing = scene.objects[index]
    answer = region_text(thing.box, len(scene.image))
    return Question(kind="locate", question=f"where is the {_name(thing)}?", answer=answer, object=index, box=thing.box)


PICTURE_KINDS: Mapping[str, Make] = MappingProxyType(
    {
        "caption": _caption,
        "description": _description,
        "exists": _exists,
        "relation": _relation,
        "count": _count,
        "colour": _colour,
        "shape": _shape,
        "size": _size,
        "comparison": _comparison,
        "quarter": _quarter,
        "third": _third,
        "region": _region,
        "locate": _locate,
    }
)
"""The kinds of questions about one picture, and the functions that ask them."""
