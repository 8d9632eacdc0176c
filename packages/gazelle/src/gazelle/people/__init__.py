"""People in pictures, found offline, read from files and followed over the frames of a video.

    heads = people.find_heads(pixels)                       # boxes float32 [P, 4] in pixels, and scores [P]
    boxes = people.fractions(heads.boxes, width, height)    # as the model takes them
    ids = people.Tracker().update(heads.boxes, heads.scores)  # once for each frame

boxes      the types Faces and Heads
mtcnn      the default detector of faces, with its weights in this package (its networks are in `networks`)
cascade    another one, of scikit-image
detectors  a detector by its name, and heads from any of them
heads      head boxes from face boxes
reading    boxes from JSON and from text
tracks     the same number for the same person in every frame

Importing this imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from gazelle.people.boxes import Faces, Heads
    from gazelle.people.detectors import Detector, detector, find_heads
    from gazelle.people.heads import head_boxes
    from gazelle.people.mtcnn import Mtcnn
    from gazelle.people.reading import boxes_of, fractions, parse_box, read_boxes
    from gazelle.people.tracks import Tracker

_LAZY = {
    "Detector": "gazelle.people.detectors",
    "Faces": "gazelle.people.boxes",
    "Heads": "gazelle.people.boxes",
    "Mtcnn": "gazelle.people.mtcnn",
    "Tracker": "gazelle.people.tracks",
    "boxes_of": "gazelle.people.reading",
    "detector": "gazelle.people.detectors",
    "find_heads": "gazelle.people.detectors",
    "fractions": "gazelle.people.reading",
    "head_boxes": "gazelle.people.heads",
    "parse_box": "gazelle.people.reading",
    "read_boxes": "gazelle.people.reading",
}

__all__ = [
    "Detector",
    "Faces",
    "Heads",
    "Mtcnn",
    "Tracker",
    "boxes_of",
    "detector",
    "find_heads",
    "fractions",
    "head_boxes",
    "parse_box",
    "read_boxes",
]

__getattr__, __dir__ = attributes(__name__, "gazelle", _LAZY)
