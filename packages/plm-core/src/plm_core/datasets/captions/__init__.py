"""Images or videos with captions: rows of JSON beside the files, or the tar shards of webdataset.

    data.py      `Captions`: the media, their texts, and to which medium each text belongs
    loading.py   `load_captions` and `load_caption_splits`, which find out what a source is and read it
    layout.py    the files of a source, by their names alone
    rows.py      captions.jsonl
    shards.py    the shards that the package webdataset writes
    members.py   the files in a tar archive
    broken.py    the rows that cannot be used: counted, listed, and an error or left out
    pairs.py     `CaptionPairs`, a dataset for torch
    writing.py   `write_captions` and `write_shapes`, which write such a folder

Images and videos stay encoded until they are needed. Only pairs.py imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.datasets.captions.data import Captions
    from plm_core.datasets.captions.loading import (
        CaptionSplits,
        load_caption_splits,
        load_captions,
        own_caption_splits,
    )
    from plm_core.datasets.captions.pairs import CaptionPairs
    from plm_core.datasets.captions.writing import write_captions, write_shapes

_LAZY = {
    "CaptionPairs": "plm_core.datasets.captions.pairs",
    "CaptionSplits": "plm_core.datasets.captions.loading",
    "Captions": "plm_core.datasets.captions.data",
    "load_caption_splits": "plm_core.datasets.captions.loading",
    "load_captions": "plm_core.datasets.captions.loading",
    "own_caption_splits": "plm_core.datasets.captions.loading",
    "write_captions": "plm_core.datasets.captions.writing",
    "write_shapes": "plm_core.datasets.captions.writing",
}

__all__ = [
    "CaptionPairs",
    "CaptionSplits",
    "Captions",
    "load_caption_splits",
    "load_captions",
    "own_caption_splits",
    "write_captions",
    "write_shapes",
]

__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)
