"""Rows as token ids and pixels, a dataset for torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
import torch.utils.data
from PIL import Image
from torch import Tensor

from plm_core.errors import InputError
from plm_core.lm.chat import ChatEncoder, ChatFormat, Encoded, Tokenizer
from plm_core.lm.data.bad_rows import BadRows
from plm_core.lm.data.rows import Medium, Row, Stored
from plm_core.lm.data.sample import Sample
from plm_core.utils.images import open_image
from plm_core.utils.text import first_line

if TYPE_CHECKING:
    from plm_core.lm.media import MediaSettings

ATTEMPTS = 20
"""How many rows are tried for one sample."""


class IndexedRows(Protocol):
    """Rows by index, such as `plm_core.lm.data.sources.Rows` and `plm_core.lm.data.mixing.Mixture`."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, index: int) -> Row:
        """Return a row."""

    def place(self, index: int) -> str:
        """Return where a row is."""


class ConversationSamples(torch.utils.data.Dataset[Sample]):
    """A map-style dataset of `Sample`. Text samples have no chunks.

    A row that cannot be used is left out, and another takes its place, which the seed and the index choose: a row with
    something wrong in it, without its image, with a damaged video, or of which no answer fits into ``max_length``. So
    each sample has targets.

    Args:
        rows: The rows.
        tokenizer: The language model's tokenizer.
        settings: How images and videos become chunks.
        max_length: The most tokens, as in `plm_core.lm.chat.ChatEncoder.training`.
        mode: "chat", or "warmup" for the captions of the first stage.
        format: The strings around the turns (default: known by the tokenizer's special tokens).
        system: The system prompt (default: that of the tokenizer's chat template).
        max_bad: The number of rows that may be left out.
        report: The file that lists them, see `plm_core.lm.data.bad_rows.BadRows`.
        seed: Random seed of the rows that take their place.

    Attributes:
        encoder: What encodes the conversations.
        bad_rows: The rows that were left out.

    Raises:
        InputError: An argument is not allowed. On indexing: more than ``max_bad`` rows cannot be used; the message
            names the last one.
        NotSupported: The tokenizer has no known format.
    """

    def __init__(
        self,
        rows: IndexedRows,
        tokenizer: Tokenizer,
        settings: MediaSettings,
        *,
        max_length: int,
        mode: Literal["chat", "warmup"] = "chat",
        format: ChatFormat | None = None,
        system: str | None = None,
        max_bad: int = 0,
        report: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        if mode not in ("chat", "warmup"):
            raise InputError(f"mode {mode!r} is not allowed: 'chat' and 'warmup' are")
        if max_length < 2:
            raise InputError(f"max_length {max_length} is not allowed: 2 or more is")
        self.rows = rows
        self.settings = settings
        self.max_length = max_length
        self.mode = mode
        self.encoder = ChatEncoder(tokenizer, settings.tokens, format=format, system=system)
        self.bad_rows = BadRows(max_bad, report)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of a row, or of the one that takes its place."""
        row = index
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.read(self.rows[row])
            except InputError as e:
                place = self.rows.place(row)
                self.bad_rows.add(place, first_line(e).removeprefix(f"{place}: "))
            row = int(np.random.default_rng((self.seed, index, attempt)).integers(len(self)))
        raise InputError(
            f"{ATTEMPTS} rows that were drawn for sample {index} cannot be used; see plm check-data --media"
        )

    def read(self, row: Row) -> Sample:
        """Return the sample of a row.

        Raises:
            InputError: The row cannot be used. The message names it.
        """
        try:
            return self._read(row)
        except InputError as e:
            raise InputError(f"{row.place}: {e}") from e

    def _read(self, row: Row) -> Sample:
        chunks = read_chunks(row, self.settings)
        encoded = self._encode(row, 0 if chunks is None else len(chunks))
        if not encoded.targets:
            raise InputError(f"no answer fits into max_length {self.max_length}")
        if chunks is not None:  # of several images, those of questions that did not fit have no placeholders
            chunks = chunks[: len(encoded.media) // self.settings.tokens]
        ids, labels, media = (torch.tensor(x) for x in (encoded.input_ids, encoded.labels, encoded.media))
        return Sample(ids, labels, media.long(), chunks, row.media_type)

    def _encode(self, row: Row, chunks: int) -> Encoded:
        conversation = with_regions(row)
        if self.mode == "warmup":
            return self.encoder.warmup(conversation, chunks, self.max_length)
        return self.encoder.training(conversation, chunks, row.media_type, self.max_length)


def with_regions(row: Row) -> list[Mapping[str, Any]]:
    """Return the turns of a row, with the coordinates of its boxes in the place of ``<|bbox0|>`` ..."""
    if not row.boxes or row.size is None:
        return row.conversations
    from plm_core.lm.regions import region_text

    width, height = row.size
    return [{**turn, "value": region_text(str(turn["value"]), row.boxes, width, height)} for turn in row.conversations]


def read_chunks(row: Row, settings: MediaSettings) -> Tensor | None:
    """Return the chunks of a row's image, images or video [N, 3, S, S]; None for text.

    Raises:
        InputError: A file cannot be read.
    """
    if not row.media:
        return None
    from plm_core.lm.media import image_chunks, single_chunk

    if row.media_type == "video":
        return _video_chunks(row, settings)
    if len(row.media) == 1:
        # boxes are pixels of the image as it is stored
        return image_chunks(read_image(row.media[0], upright=not row.boxes), settings)
    return torch.cat([single_chunk(read_image(medium), settings) for medium in row.media])


def read_image(medium: Medium, upright: bool = True) -> Image.Image:
    """Return an image of a row.

    Args:
        medium: The image.
        upright: Whether it is turned as its EXIF data say.

    Raises:
        InputError: It cannot be read.
    """
    if isinstance(medium, Path):
        return open_image(medium, upright=upright)
    name, contents = (medium.name, medium.read()) if isinstance(medium, Stored) else ("in the row", medium)
    return open_image(name, contents, upright=upright)


def _video_chunks(row: Row, settings: MediaSettings) -> Tensor:
    """Return the frames of a row's video as chunks, with the region drawn on those where it is seen."""
    from plm_core.lm.media import frame_chunks, read_video, video_chunks
    from plm_core.lm.regions import draw_boxes

    medium = row.media[0]
    contents: Any = medium.read() if isinstance(medium, Stored) else medium
    start, end = row.start, row.end
    if start is not None and end is not None and start > end:  # the original swaps them
        start, end = end, start
    if row.frame_boxes is None:
        return video_chunks(contents, settings, start, end)[0]
    video = read_video(contents, settings, start, end)
    return frame_chunks(draw_boxes(video.pixels, video.indices, row.frame_boxes), settings)
