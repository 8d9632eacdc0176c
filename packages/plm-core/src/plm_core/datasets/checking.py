"""Looks at every image or video of a dataset before long work starts on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from plm_core.datasets.labelled import Dataset
from plm_core.errors import InputError
from plm_core.utils.images import check_image
from plm_core.utils.progress import main_process, track

_log = logging.getLogger("plm_core")
MAX_NAMES = 5
"""Number of images that an error names."""
MAX_LISTED = 50
"""Number of images left out that a warning names."""


def readable(dataset: Dataset, skip: bool = False, decode: bool = True) -> Dataset:
    """Return a dataset of which every image or video can be read.

    Args:
        dataset: The dataset.
        skip: Whether to leave out those that cannot be read, with a warning that counts and names them.
        decode: Whether to decode each image and find the frames of each video, instead of reading its header only.

    Raises:
        InputError: Some cannot be read, and they are not to be skipped; or all of them. The message says how many, and
            names the first ones.
        MissingDependency: PyAV is needed for videos and is not installed.
    """
    bad = unreadable(dataset.items, dataset.kind, decode)
    kept = leave_out(bad, dataset.names, f"{dataset.kind} of {dataset.source!r}", skip)
    if not bad:
        return dataset
    left_out = (*dataset.left_out, *(dataset.names[place] for place in bad))
    return replace(dataset.take(kept), left_out=left_out)


def unreadable(items: Sequence[Any], kind: str = "images", decode: bool = True) -> dict[int, str]:
    """Return the places of the items that cannot be read, each with the reason, and show a progress bar.

    Args:
        items: The items of a `Dataset` of this kind.
        kind: ``images`` or ``videos``.
        decode: As for `readable`.
    """
    check = partial(_reason, items, _check_video if kind == "videos" else check_image, decode)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = list(track(pool.map(check, range(len(items))), f"checking {kind}", total=len(items)))
    return {place: reason for place, reason in enumerate(reasons) if reason}


def leave_out(bad: Mapping[int, str], names: Sequence[str], what: str, skip: bool) -> list[int]:
    """Return the places of the items that can be read.

    Args:
        bad: The places of those that cannot, with the reasons.
        names: The names of all items.
        what: The items in words, such as ``images of 'photos'``.
        skip: Whether those that cannot be read are left out with a warning, and are no error.

    Raises:
        InputError: Some cannot be read, and ``skip`` is not set; or all of them.
    """
    if not bad:
        return list(range(len(names)))
    most = MAX_LISTED if skip and len(bad) < len(names) else MAX_NAMES
    listed = ", ".join(f"{names[place]} ({reason})" for place, reason in list(bad.items())[:most])
    more = f" and {len(bad) - most} more" if len(bad) > most else ""
    message = f"{len(bad)} of {len(names)} {what} cannot be read"
    if len(bad) == len(names):
        raise InputError(f"{message}: {listed}{more}")
    if not skip:
        raise InputError(f"{message}, which --skip-unreadable leaves out: {listed}{more}")
    if main_process():
        _log.warning("%s and are left out: %s%s", message, listed, more)
    return [place for place in range(len(names)) if place not in bad]


def _reason(items: Sequence[Any], check: Any, decode: bool, place: int) -> str:
    try:
        check(items[place], decode)
    except InputError as e:
        return str(e)
    return ""


def _check_video(path: Path, decode: bool) -> None:
    from plm_core.video.file import Video, check_video  # torch is imported with it, which images do not need

    if decode:
        Video(path)
    else:
        check_video(path)
