"""Media with their captions, in the form in which retrieval and contrastive trainings need them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plm_core.errors import InputError
from plm_core.utils.images import decode_image, open_image

if TYPE_CHECKING:
    from plm_core.video.file import Video


class Media(Sequence[Any], ABC):
    """Images or videos, each the path of its file or its encoded bytes, which are read when it is indexed."""

    @abstractmethod
    def take(self, order: NDArray[np.int64]) -> Media:
        """Return those of some indices, in their order."""


class Files(Media):
    """Files below a folder. Only their names are kept, since millions of paths would fill the memory.

    Args:
        root: The folder.
        names: The paths of the files, relative to it or absolute.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return self.root / self.names[index]

    def take(self, order: NDArray[np.int64]) -> Files:
        """Return the files of some indices, in their order."""
        return Files(self.root, [self.names[i] for i in order.tolist()])


@dataclass(frozen=True, eq=False)
class Captions:
    """Images or videos with one or several captions each, still encoded. `len` counts the images or videos.

    Attributes:
        source: Where they come from.
        names: The name of each image or video [N].
        media: The path, or the encoded bytes, of each [N]. It is fetched when it is indexed.
        texts: All captions [M]. Those of one image or video stand together, in the order of the data.
        owner: The index of the image or video of each caption, int64 [M], ascending.
        kind: ``images`` or ``videos``.
        left_out: The rows, and the names of the images or videos, that were left out since they cannot be used.
    """

    source: str
    names: Sequence[str]
    media: Media
    texts: Sequence[str]
    owner: NDArray[np.int64]
    kind: str = "images"
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Return the places of the first captions [N + 1]."""
        return np.searchsorted(self.owner, np.arange(len(self) + 1)).astype(np.int64)

    def texts_of(self, index: int) -> Sequence[str]:
        """Return the captions of one image or video."""
        place = range(len(self))[index]
        return self.texts[int(self._starts[place]) : int(self._starts[place + 1])]

    def image(self, index: int) -> Image.Image:
        """Return one image, decoded by the rule of `plm_core.utils.images`.

        Raises:
            InputError: The image cannot be read, or is a video. The message names it.
        """
        if self.kind != "images":
            raise InputError(f"data {self.source!r} holds {self.kind}; images are needed")
        try:
            item = self.media[index]
            if isinstance(item, bytes):
                return decode_image(item)
        except InputError as e:
            raise InputError(f"image {self.names[index]!r} of {self.source!r} cannot be read: {e}") from e
        return open_image(item)

    def video(self, index: int) -> Video:
        """Return one video, of which no frame is decoded yet.

        Raises:
            InputError: The video cannot be read, or is an image. The message names it.
            MissingDependency: PyAV is not installed.
        """
        from plm_core.video.file import Video  # torch is imported with it, which images do not need

        if self.kind != "videos":
            raise InputError(f"data {self.source!r} holds {self.kind}; videos are needed")
        item = self.media[index]
        try:
            return Video(item)
        except InputError as e:
            if not isinstance(item, bytes):
                raise  # the message has its path
            raise InputError(f"video {self.names[index]!r} of {self.source!r} cannot be read: {e}") from e

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Captions:
        """Return the images or videos of some indices with their captions, in their order. None is read."""
        order = np.asarray(indices, dtype=np.int64)
        starts, ends = self._starts[:-1][order], self._starts[1:][order]
        texts = [text for a, b in zip(starts.tolist(), ends.tolist(), strict=True) for text in self.texts[a:b]]
        return replace(
            self,
            names=[self.names[i] for i in order.tolist()],
            media=self.media.take(order),
            texts=texts,
            owner=np.repeat(np.arange(len(order)), ends - starts).astype(np.int64),
        )

    def digest(self) -> str:
        """Return 16 digits that change with the name, a caption or the order of any image or video.

        They are cheap, because no file is opened: others under the same names have the same digest.
        """
        hasher = hashlib.sha256(f"captions of {len(self)} {self.kind}\n".encode())
        for text in (*self.names, *self.texts):
            hasher.update(f"{len(text)} {text}\n".encode(errors="surrogatepass"))
        hasher.update(np.ascontiguousarray(self.owner, dtype="<i8").tobytes())
        return hasher.hexdigest()[:16]


def grouped(texts: Sequence[str], owner: Sequence[int]) -> tuple[list[str], NDArray[np.int64]]:
    """Return texts by their owners, and the owners [M]. The same text of the same owner is kept once.

    Args:
        texts: Texts in any order.
        owner: The owner of each.
    """
    numbers = np.asarray(owner, dtype=np.int64)
    if (np.diff(numbers) > 0).all():
        return list(texts), numbers
    order = np.argsort(numbers, kind="stable").tolist()
    pairs = dict.fromkeys((owner[i], texts[i]) for i in order)
    return [text for _, text in pairs], np.fromiter((number for number, _ in pairs), np.int64, len(pairs))


def captions_in(record: Mapping[str, Any]) -> list[str]:
    """Return the captions in a row: its ``caption``, or its list ``captions``, without white space at the ends.

    Raises:
        ValueError: There is none, or one is no text. The message says why in a few words.
    """
    if "caption" not in record and "captions" not in record:
        raise ValueError("no field 'caption' or 'captions'")
    if "caption" in record and "captions" in record:
        raise ValueError("both 'caption' and 'captions'")
    if "caption" in record:
        return [checked_caption(record["caption"], "'caption'")]
    several = record["captions"]
    if not isinstance(several, list) or not several:
        raise ValueError("'captions' is no list of texts" if several != [] else "'captions' is empty")
    return [checked_caption(text, f"number {place} of 'captions'") for place, text in enumerate(several, 1)]


def checked_caption(value: Any, what: str) -> str:
    """Return a caption without white space at its ends.

    Raises:
        ValueError: It is no text, or there is nothing in it.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is {json_word(value)}, no text")
    text = value.strip()
    if not text:
        raise ValueError(f"{what} is empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise ValueError(f"{what} has half a character, {value[e.start]!a}") from e
    return text


def json_word(value: Any) -> str:
    """Return a word for a value of JSON: ``a list``, ``null``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    words = {"dict": "an object", "list": "a list", "str": "a text"}
    return words.get(type(value).__name__, "a number")
