"""Images or videos with labels or captions, and what a source of data holds.

    loading.py      `load_dataset`, which finds out what a source is and reads its names and labels
    splits.py       `load_splits`, the part to train on and the part to judge the training on
    kinds.py        `kind_of` and `check_kind`: images, videos, COCO's format, a model ...
    pictures.py     `Pictures`, a dataset of images for torch
    checking.py     `readable`, which looks at every image before long work
    labelled.py     `Dataset`, its `digest`, and class numbers from labels of other types
    layout.py       the splits and the class folders of a folder
    folder.py       folders of images or videos by class
    npz.py          arrays
    huggingface.py  datasets of the Hugging Face Hub, and those that its library has saved
    conversations.py  the files of conversations for language models
    captions/       images or videos with captions: `load_captions`, `CaptionPairs` ...

Images stay encoded until a model needs them. Only pictures.py and captions/pairs.py import torch. The names below are
imported when they are first used, so that a command can describe the kinds of data without loading NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.datasets.captions import (
        CaptionPairs,
        Captions,
        CaptionSplits,
        load_caption_splits,
        load_captions,
    )
    from plm_core.datasets.checking import readable
    from plm_core.datasets.kinds import KINDS, Kind, check_kind, kind_of
    from plm_core.datasets.labelled import Dataset, digest
    from plm_core.datasets.loading import load_dataset, read_dataset
    from plm_core.datasets.pictures import Pictures
    from plm_core.datasets.splits import Splits, check_classes, load_splits

_LAZY = {
    "KINDS": "plm_core.datasets.kinds",
    "CaptionPairs": "plm_core.datasets.captions",
    "CaptionSplits": "plm_core.datasets.captions",
    "Captions": "plm_core.datasets.captions",
    "Dataset": "plm_core.datasets.labelled",
    "Kind": "plm_core.datasets.kinds",
    "Pictures": "plm_core.datasets.pictures",
    "Splits": "plm_core.datasets.splits",
    "check_classes": "plm_core.datasets.splits",
    "check_kind": "plm_core.datasets.kinds",
    "digest": "plm_core.datasets.labelled",
    "kind_of": "plm_core.datasets.kinds",
    "load_caption_splits": "plm_core.datasets.captions",
    "load_captions": "plm_core.datasets.captions",
    "load_dataset": "plm_core.datasets.loading",
    "load_splits": "plm_core.datasets.splits",
    "read_dataset": "plm_core.datasets.loading",
    "readable": "plm_core.datasets.checking",
}

__all__ = [
    "KINDS",
    "CaptionPairs",
    "CaptionSplits",
    "Captions",
    "Dataset",
    "Kind",
    "Pictures",
    "Splits",
    "check_classes",
    "check_kind",
    "digest",
    "kind_of",
    "load_caption_splits",
    "load_captions",
    "load_dataset",
    "load_splits",
    "read_dataset",
    "readable",
]

__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)
