"""A small procedural visual world: coloured shapes in pictures and clips, with exact labels and no download.

`Images` holds still scenes and `Clips` moving ones. Every item comes with a caption in plain English and, for each
object, its words, tight box and visible mask; a clip also says which object does what from which frame to which.
An item is a pure function of its split, seed, index and the options, whatever was read before it and in whichever
process. The two splits, and the two datasets, never share a random stream.

It exists so that tests, examples and micro models have something to see that ships with the library. It is not a
substitute for photographs: there is no texture, light, depth or camera, the vocabulary is a few dozen words, and the
held-out split shows new scenes from the same distribution, not new shapes, colours or pairs of them. A good score here
says that a model can learn, not that it sees.

    >>> from plm_core import shapes
    >>> scene = shapes.Images("train", size=64, seed=0)[0]
    >>> scene.image.shape
    (64, 64, 3)

It needs NumPy only. Scenes are sampled as a graph first (`graph`) and drawn second (`draw`).
"""

from plm_core.shapes.graph import BACKGROUNDS, COLOURS, MOTIONS, PALETTE, SHAPES, SIZES
from plm_core.shapes.scenes import SPLITS, Clip, Clips, Event, Images, Object, Scene, Track

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
