"""Conversations to train a language model on, with their images and videos.

    rows.py        `Row`, one conversation, and what is wrong with a record that should be one
    sources.py     `open_rows`: files of JSON lines, folders of them, Hugging Face datasets and webdataset's shards
    registry.py    `load_registry`: sources by name, in a YAML file
    mixing.py      `Mixture`: several sources with weights, of which an index and the seed choose a row
    samples.py     `ConversationSamples`: rows as token ids and pixels, a dataset for torch
    sample.py      `Sample`, one of these
    bad_rows.py    the rows that cannot be used: counted, listed, left out up to a limit
    packing.py     `pack` and `pad`: samples as one batch
    checking.py    `check_data`: counts and faults of a source

Only samples.py, sample.py and packing.py import torch. The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.lm.data.checking import DataReport, check_data
    from plm_core.lm.data.mixing import Mixture, load_mixture, parse_mix
    from plm_core.lm.data.packing import pack, pad
    from plm_core.lm.data.registry import Entry, load_registry
    from plm_core.lm.data.rows import Row, parse_row
    from plm_core.lm.data.sample import Sample
    from plm_core.lm.data.samples import ConversationSamples
    from plm_core.lm.data.sources import Rows, open_rows

_LAZY = {
    "ConversationSamples": "plm_core.lm.data.samples",
    "DataReport": "plm_core.lm.data.checking",
    "Entry": "plm_core.lm.data.registry",
    "Mixture": "plm_core.lm.data.mixing",
    "Row": "plm_core.lm.data.rows",
    "Rows": "plm_core.lm.data.sources",
    "Sample": "plm_core.lm.data.sample",
    "check_data": "plm_core.lm.data.checking",
    "load_mixture": "plm_core.lm.data.mixing",
    "load_registry": "plm_core.lm.data.registry",
    "open_rows": "plm_core.lm.data.sources",
    "pack": "plm_core.lm.data.packing",
    "pad": "plm_core.lm.data.packing",
    "parse_mix": "plm_core.lm.data.mixing",
    "parse_row": "plm_core.lm.data.rows",
}

__all__ = [
    "ConversationSamples",
    "DataReport",
    "Entry",
    "Mixture",
    "Row",
    "Rows",
    "Sample",
    "check_data",
    "load_mixture",
    "load_registry",
    "open_rows",
    "pack",
    "pad",
    "parse_mix",
    "parse_row",
]

__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)
