"""A small procedural world of coloured shapes in pictures and clips, with exact labels and no download.

`Images` holds still scenes and `Clips` moving ones. Every item has a caption in plain English and, for each object, its
words, tight box and visible mask. A clip also has the motions of each object, with their first and last frames.
`Gazes` and `GazeClips` add figures that look at things. Each figure has the box of its head, the direction and the
point of its gaze, what it looks at, and whether that is in the picture.

An item is a pure function of its split, seed, index and options: it depends neither on the items read before it nor on
the process. The two splits, and the datasets, never share a random stream.

The world gives tests, examples and micro models data that ships with the library. It is not a substitute for
photographs: it has no texture, light, depth or camera, and a vocabulary of a few dozen words. The held-out split shows
new scenes from the same distribution, not new shapes, colours or pairs of them. A good score here shows that a model
can learn, not that it can see.

    >>> from plm_core import shapes
    >>> scene = shapes.Images("train", size=64, seed=0)[0]
    >>> scene.image.shape
    (64, 64, 3)

The gaze of a figure is a ray from the centre of its head in the direction of its nose. Objects and heads stop it, and
bodies do not. It ends at the first thing whose disc, the circle around its outline, it meets. A head turned by up to 8
degrees to either side would still look at the same thing, except while it turns in a clip. So a gaze that leaves the
picture passes all things by at least that much.

    >>> [(person.head, person.inside) for person in shapes.Gazes("train", size=64)[0].people]
    [((17.0, 14.0, 30.0, 26.0), True), ((42.0, 11.0, 54.0, 23.0), False)]

The package needs NumPy only.

- ``words``: the names of shapes, colours and motions, without NumPy.
- ``scenes``: the datasets `Images`, `Clips`, `Gazes` and `GazeClips`, and their items; ``world`` is their base.
- ``graph``: the plan of a scene, sampled first.
- ``gazing``: the plan of a scene with figures, and the geometry of their gazes.
- ``draw``: the pixels of a plan, drawn second.
- ``questions``: the datasets `ImageQuestions` and `ClipQuestions`, whose items come with questions and answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plm_core.shapes.words import BACKGROUNDS, CLOTHES, COLOURS, MOTIONS, PALETTE, SHAPES, SIZES, SPLITS

if TYPE_CHECKING:
    from plm_core.shapes.scenes import (
        Clip,
        Clips,
        Event,
        GazeClip,
        GazeClips,
        Gazes,
        GazeScene,
        Images,
        Object,
        Person,
        Scene,
        Track,
    )

__all__ = [
    "BACKGROUNDS",
    "CLOTHES",
    "COLOURS",
    "MOTIONS",
    "PALETTE",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Clip",
    "Clips",
    "Event",
    "GazeClip",
    "GazeClips",
    "GazeScene",
    "Gazes",
    "Images",
    "Object",
    "Person",
    "Scene",
    "Track",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # the datasets import NumPy, and the words do not
        from plm_core.shapes import scenes

        return getattr(scenes, name)
    raise AttributeError(f"module 'plm_core.shapes' has no attribute {name!r}")
