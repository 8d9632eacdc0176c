"""Masks as COCO's run lengths, which are small and fit into JSON.

COCO reads a mask column by column and counts the pixels of each run, beginning with the background. To shorten the
counts, it writes each but the first three as the difference to the one two places before. A number becomes characters
of five bits, lowest first, each offset by 48; a sixth bit says that more follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mask:
    """A mask in COCO's compressed form; ``dataclasses.asdict`` gives what pycocotools decodes.

    Attributes:
        size: Height and width in pixels.
        counts: The run lengths.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def encode(cls, mask: NDArray[np.bool_]) -> Mask:
        """Return the run lengths of a mask, bool [H, W]."""
        height, width = mask.shape
        pixels = np.concatenate([[False], mask.ravel(order="F")])  # the first run is background, also if it is empty
        edges = np.flatnonzero(pixels[1:] != pixels[:-1])
        counts = [int(end - start) for start, end in pairwise([0, *edges, mask.size])]
        deltas = [n - counts[i - 2] if i > 2 else n for i, n in enumerate(counts)]
        return cls((height, width), "".join(map(_characters, deltas)))

    def decode(self) -> NDArray[np.bool_]:
        """Return the mask, bool [H, W]."""
        counts: list[int] = []
        number = shift = 0
        for character in self.counts:
            bits = ord(character) - 48
            number |= (bits & 31) << shift
            shift += 5
            if bits & 32:
                continue
            if bits & 16:  # the number is negative
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(self.size, order="F")


def _characters(number: int) -> str:
    text = ""
    while True:
        bits, number = number & 31, number >> 5
        # the rest is nothing but the sign of what was written
        last = number == (-1 if bits & 16 else 0)
        text += chr(48 + (bits if last else bits | 32))
        if last:
            return text
