"""Pictures of people with their head boxes and gaze points, in the formats of the public datasets.

    annotations.py           `Annotations`, `Scene` and `Person`, the form that every reader gives
    gazefollow.py            `read_gazefollow`
    videoattentiontarget.py  `read_vat`
    childplay.py             `read_childplay`
    goo.py                   `read_goo`, of GOO-Real's pickles
    jsons.py                 `read_json`, of the JSON files that the original writes for the first two
    opening.py               `open_gaze`, a dataset of any of these formats
    rows.py                  lines, numbers and boxes of these files
    frames.py                the image files they name
    pickles.py               pickles of plain values and arrays, read without running code
    augmentation.py          `augment`, the three augmentations of the training
    writing.py               `write_gazefollow` and `write_vat`, scenes of `plm_core.shapes` in these formats
    samples.py               `PersonSamples` and `SceneSamples`, datasets for torch, and how they are collated

Rows that cannot be used are counted and listed with their line numbers. They are an error, or left out with a warning
if ``skip`` is set. Only samples.py imports torch. The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from gazelle.data.annotations import Annotations, Person, Scene
    from gazelle.data.augmentation import augment
    from gazelle.data.childplay import read_childplay
    from gazelle.data.gazefollow import read_gazefollow
    from gazelle.data.goo import read_goo
    from gazelle.data.jsons import read_json
    from gazelle.data.opening import open_gaze
    from gazelle.data.samples import PersonSamples, SceneSamples, collate_people, collate_scenes
    from gazelle.data.videoattentiontarget import read_vat
    from gazelle.data.writing import write_gazefollow, write_vat

_LAZY = {
    "Annotations": "gazelle.data.annotations",
    "Person": "gazelle.data.annotations",
    "PersonSamples": "gazelle.data.samples",
    "Scene": "gazelle.data.annotations",
    "SceneSamples": "gazelle.data.samples",
    "augment": "gazelle.data.augmentation",
    "collate_people": "gazelle.data.samples",
    "collate_scenes": "gazelle.data.samples",
    "open_gaze": "gazelle.data.opening",
    "read_childplay": "gazelle.data.childplay",
    "read_gazefollow": "gazelle.data.gazefollow",
    "read_goo": "gazelle.data.goo",
    "read_json": "gazelle.data.jsons",
    "read_vat": "gazelle.data.videoattentiontarget",
    "write_gazefollow": "gazelle.data.writing",
    "write_vat": "gazelle.data.writing",
}

__all__ = [
    "Annotations",
    "Person",
    "PersonSamples",
    "Scene",
    "SceneSamples",
    "augment",
    "collate_people",
    "collate_scenes",
    "open_gaze",
    "read_childplay",
    "read_gazefollow",
    "read_goo",
    "read_json",
    "read_vat",
    "write_gazefollow",
    "write_vat",
]

__getattr__, __dir__ = attributes(__name__, "gazelle", _LAZY)
