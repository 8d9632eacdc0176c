"""Finds out what a source of captions is, and reads its parts to train on and to judge a training on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plm_core.datasets.captions.data import Captions
from plm_core.datasets.captions.layout import Part, Parts, find_parts
from plm_core.datasets.captions.rows import read_rows
from plm_core.datasets.captions.shards import read_shards
from plm_core.datasets.checking import leave_out, unreadable
from plm_core.datasets.kinds import KINDS
from plm_core.datasets.layout import split_word
from plm_core.datasets.splits import HOLDOUT, check_share, hold_out
from plm_core.errors import InputError, escaped


@dataclass(frozen=True)
class CaptionSplits:
    """Two parts of a source of captions, both of images or both of videos."""

    train: Captions
    val: Captions
    note: str
    """Where the second part comes from, for people to read."""
    name: str = "val"
    """The second part in a word: ``test`` if it is a split of such a name, which some data have instead of ``val``."""


def load_captions(source: str | Path, skip_unreadable: bool | None = None) -> Captions:
    """Read the names and captions of images or videos. Of a source with splits, it is the one to train on.

    Args:
        source: A file of rows, ``.jsonl`` (see `plm_core.datasets.captions.rows.read_rows`); a shard of webdataset,
            ``.tar`` (see `plm_core.datasets.captions.shards.read_shards`); or a folder with ``captions.jsonl`` or
            shards.
        skip_unreadable: None to open no image or video; broken rows are an error. Otherwise each is read. Those that
            cannot be, and broken rows, are left out with a warning, or are an error.

    Raises:
        InputError: The source is none of these; rows are broken, or images or videos cannot be read. The message counts
            and lists them.
        MissingDependency: webdataset is needed and not installed; or PyAV, to read the videos.
    """
    return _read(_parts(source)[0], skip_unreadable)


def own_caption_splits(source: str | Path, skip_unreadable: bool | None = None) -> tuple[Captions, Captions | None]:
    """Read the part to train on and, if the source has a split for that, the one to judge a training on.

    Splits are ``train/captions.jsonl`` and ``val/captions.jsonl``, ``train.jsonl`` and ``val.jsonl``, ``train/*.tar``
    and ``val/*.tar``, or ``train-000.tar`` ... and ``val-000.tar`` ...; for other names see
    `plm_core.datasets.layout.find_splits`.

    Args:
        source: As for `load_captions`.
        skip_unreadable: As for `load_captions`.

    Raises:
        InputError: As for `load_captions`; or one part has images and the other videos.
        MissingDependency: As for `load_captions`.
    """
    train, val, _ = _splits(source, skip_unreadable)
    return train, val


def load_caption_splits(
    source: str | Path, seed: int = 0, holdout: float = HOLDOUT, skip_unreadable: bool | None = None
) -> CaptionSplits:
    """Read the captions to train on and those to judge the training on.

    They are the splits of the source, see `own_caption_splits`. From a source without them a share of the images or
    videos is held out, each with all its captions.

    Args:
        source: As for `load_captions`.
        seed: Seed of the draw of those that are held out.
        holdout: Share that is held out, between 0 and 1.
        skip_unreadable: As for `load_captions`.

    Raises:
        InputError: As for `own_caption_splits`; ``holdout`` is not allowed, or there is one image or video only.
        MissingDependency: As for `load_captions`.
    """
    check_share(holdout)
    train, val, name = _splits(source, skip_unreadable)
    if val is not None:
        word = "test" if (split_word(name) or "").startswith("test") else "val"
        return CaptionSplits(train, val, f"{len(val)} {val.kind} of the split {name}", word)
    if len(train) < 2:
        raise InputError(
            f"data {str(source)!r} has 1 of the {train.kind}; 2 or more are needed, since some are held out"
        )
    kept, held_out = hold_out(np.zeros(len(train), np.int64), seed, holdout)
    note = f"{100 * holdout:g} % of the {train.kind} ({len(held_out)} of {len(train)}) held out, seed {seed}"
    return CaptionSplits(train.take(kept), train.take(held_out), note)


def _parts(source: str | Path) -> Parts:
    path = Path(source)
    if not path.exists():
        raise InputError(f"data {str(source)!r} does not exist; a folder, a .jsonl file or a .tar file is allowed")
    parts = find_parts(path)
    if parts is None:
        raise InputError(f"data {str(source)!r} has no captions; expected {KINDS['captions'].layout}")
    return parts


def _splits(source: str | Path, skip_unreadable: bool | None) -> tuple[Captions, Captions | None, str]:
    """Return both parts, and the name of the second."""
    first, second = _parts(source)
    train = _read(first, skip_unreadable)
    if second is None:
        return train, None, ""
    val = _read(second, skip_unreadable)
    if val.kind != train.kind:
        raise InputError(f"data {str(source)!r} has {train.kind} to train on and {val.kind} in the split {second.name}")
    return train, val, second.name


def _read(part: Part, skip_unreadable: bool | None) -> Captions:
    skip = bool(skip_unreadable)
    captions = read_shards(part, skip) if part.sharded else read_rows(part.files[0], skip)
    return captions if skip_unreadable is None else _readable(captions, skip)


def _readable(captions: Captions, skip: bool) -> Captions:
    """Return captions of which every image or video can be read; see `plm_core.datasets.readable`."""
    bad = unreadable(captions.media, captions.kind)
    if not bad:
        return captions
    names = [escaped(name) for name in captions.names]
    kept = leave_out(bad, names, f"{captions.kind} of {captions.source!r}", skip)
    left_out = (*captions.left_out, *(names[place] for place in bad))
    return replace(captions.take(kept), left_out=left_out)
