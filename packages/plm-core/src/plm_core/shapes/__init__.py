"""A small procedural world of coloured shapes in pictures and clips, with exact labels and no download.

`Images` holds still scenes and `Clips` moving ones. Every item has a caption in plain English and, for each object, its
words, tight box and visible mask. A clip also has the motions of each object, with their first and last frames.
An item is a pure function of its split, seed, index and options: it depends neither on the items read before it nor on
the process. The two splits, and the two datasets, never share a random stream.

The world gives tests, examples and micro models data that ships with the library. It is not a substitute for
photographs: it has no texture, light, depth or camera, and a vocabulary of a few dozen words. The held-out split shows
new scenes from the same distribution, not new shapes, colours or pairs of them. A good score here shows that a model
can learn, not that it can see.

    >>> from plm_core import shapes
    >>> scene = shapes.Images("train", size=64, seed=0)[0]
    >>> scene.image.shape
    (64, 64, 3)

The package needs NumPy only.

- ``words``: the names of shapes, colours and motions, without NumPy.
- ``scenes``: the datasets `Images` and `Clips`, and their items.
- ``graph``: the plan of a scene, sampled first.
- ``draw``: the pixels of a plan, drawn second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plm_core.shapes.words import BACKGROUNDS, COLOURS, MOTIONS, PALETTE, SHAPES, SIZES, SPLITS

if TYPE_CHECKING:
    from plm_core.shapes.scenes import Clip, Clips, Event, Images, Object, Scene, Track

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "MOTIONS",
    "PALETTE",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Clip",
    "Clips",
    "Event",
    "Images",
    "Object",
    "Scene",
    "Track",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # the datasets import NumPy, and the words do not
        from plm_core.shapes import scenes

        return getattr(scenes, name)
    raise AttributeError(f"module 'plm_core.shapes' has no attribute {name!r}")
