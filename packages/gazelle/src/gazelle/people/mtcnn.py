"""Faces by a cascade of three networks, MTCNN (Zhang et al. 2016, arXiv 1604.02878), with weights in this package.

The first network looks at every window of a pyramid of pictures, the other two at crops of what is left. Each gives a
probability and moves the four sides of its boxes. Faces are found from the front and up to about a profile. People seen
from behind are not found, and neither are faces smaller than ``min_size``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_area, box_iou, roi_align

from gazelle.people import networks
from gazelle.people.boxes import Faces, Pixels, clipped, rgb
from gazelle.people.networks import CELL, OUTPUT_SIZE, REFINE_SIZE, STRIDE, Stage
from plm_core.errors import InputError
from plm_core.utils.references import shipped_file

WEIGHTS = "gazelle:weights/mtcnn.safetensors"
SMALLEST = 20
"""The smallest face in pixels. In a large picture it is a share `FINEST` of the longer side."""
FINEST = 1 / 64
"""The smallest face in a large picture, as a share of its longer side. It bounds the time that a picture takes, and
Gaze-LLE looks at 448 or 640 pixels, where such a face has 7 or 10."""
FACTOR = 0.709
"""The factor between two pictures of the pyramid, about the square root of a half, so that areas halve."""
THRESHOLDS = (0.6, 0.7, 0.95)
"""The probabilities that a face must have in the three networks. 0.7 is usual for the last, but then motorcycles and a
patch of a space suit are faces, with up to 0.90. Two faces from the front and a profile in nine sizes, also mirrored,
have more than 0.99, except that of two profiles of 12 pixels one has 0.94 and the other is not found."""
CROPS = 512
"""The most crops that a network takes at once."""


@dataclass
class Candidates:
    """Boxes in a batch of pictures."""

    boxes: Tensor
    """float32 [P, 4], in pixels."""
    scores: Tensor
    """float32 [P]."""
    picture: Tensor
    """The place of each box's picture in the batch, int64 [P]."""

    def take(self, rows: Tensor) -> Candidates:
        """Return the candidates in these rows, by number or by a mask."""
        return Candidates(self.boxes[rows], self.scores[rows], self.picture[rows])


class Mtcnn(nn.Module):
    """A detector of faces.

    Args:
        min_size: Side of the smallest face in pixels, at least 12. By default 20, or a 64th of the picture's longer
            side where that is more.
        thresholds: Probabilities, from 0 to 1, that a face must have in each of the three networks.

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(self, min_size: float | None = None, thresholds: tuple[float, float, float] = THRESHOLDS) -> None:
        super().__init__()
        if min_size is not None and not CELL <= min_size < math.inf:
            raise InputError(f"min_size {min_size!r} is not allowed: a number of pixels from {CELL} is")
        if len(thresholds) != 3 or not all(0 <= value <= 1 for value in thresholds):
            raise InputError(f"thresholds {thresholds!r} are not allowed: three numbers from 0 to 1 are")
        self.min_size = min_size
        self.thresholds = thresholds
        self.proposal = networks.proposal()
        self.refinement = networks.refinement()
        self.output = networks.output()
        self.eval().requires_grad_(False)

    def forward(self, picture: Pixels) -> Faces:
        """Find the faces in a picture, uint8 RGB [H, W, 3] or grey [H, W].

        Raises:
            InputError: The picture is something else.
        """
        return self.batch([picture])[0]

    @torch.inference_mode()
    def batch(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """Find the faces in pictures of one size, such as the frames of a video.

        Raises:
            InputError: One is no picture, or their sizes differ.
        """
        pixels = [rgb(picture) for picture in pictures]
        if len(sizes := sorted({picture.shape[:2] for picture in pixels})) > 1:
            raise InputError(f"pictures of sizes {sizes}: pictures of one size are allowed in a batch")
        if not pixels:
            return []
        height, width = sizes[0]
        device = next(self.parameters()).device
        x = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float().sub(127.5).div(128)
        found = self._output(x, self._refined(x, self._proposed(x)))
        rows = [found.take(found.picture == i) for i in range(len(pixels))]
        return [Faces(clipped(r.boxes.cpu().numpy(), width, height), r.scores.cpu().numpy()) for r in rows]

    def _proposed(self, x: Tensor) -> Candidates:
        """Look at all windows of all sizes."""
        levels = [self._windows(level, x) for level in self._pyramid(x)]
        if not levels:
            return Candidates(x.new_zeros(0, 4), x.new_zeros(0), torch.zeros(0, dtype=torch.long, device=x.device))
        every = Candidates(*(torch.cat(parts) for parts in zip(*levels, strict=True)))
        return every.take(_best(every, 0.7))

    def _pyramid(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the pictures in sizes at which ever larger faces fill a window."""
        height, width = x.shape[-2:]
        smallest = self.min_size or max(SMALLEST, FINEST * max(height, width))
        scale = CELL / smallest
        while min(height, width) * scale >= CELL:
            size = (round(height * scale), round(width * scale))
            yield F.interpolate(x, size, mode="bilinear", antialias=True)
            scale *= FACTOR

    def _windows(self, level: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and pictures of the windows that may show a face, in pixels of the full picture."""
        probability, shifts = self.proposal(level)
        picture, row, column = (probability >= self.thresholds[0]).nonzero(as_tuple=True)
        corner = torch.stack([column, row], 1) * STRIDE
        across = x.new_tensor([x.shape[-1] / level.shape[-1], x.shape[-2] / level.shape[-2]])
        boxes = torch.cat([corner * across, (corner + CELL) * across], 1)
        here = Candidates(boxes, probability[picture, row, column], picture)
        kept = _best(here, 0.5)
        moved = _moved(here.boxes, shifts[picture, :, row, column])
        return moved[kept], here.scores[kept], here.picture[kept]

    def _refined(self, x: Tensor, found: Candidates) -> Candidates:
        """Look at the candidates again, move them and drop those that a better one overlaps."""
        found, shifts = self._judged(self.refinement, REFINE_SIZE, self.thresholds[1], x, found)
        kept = _best(found, 0.7)
        return Candidates(_moved(found.boxes, shifts)[kept], found.scores[kept], found.picture[kept])

    def _output(self, x: Tensor, found: Candidates) -> Candidates:
        """Look at them once more. Here a face within a larger one goes too, and the best one comes first."""
        found, shifts = self._judged(self.output, OUTPUT_SIZE, self.thresholds[2], x, found)
        moved = Candidates(_moved(found.boxes, shifts), found.scores, found.picture)
        return moved.take(apart(moved, 0.7))

    def _judged(
        self, network: Stage, side: int, threshold: float, x: Tensor, found: Candidates
    ) -> tuple[Candidates, Tensor]:
        """Return the candidates that pass a network, as squares and with its scores, and their shifts."""
        squares = _squares(found.boxes)
        places = torch.cat([found.picture[:, None].to(squares), squares], 1)
        # outside the picture a crop is 0, a medium grey
        judged = [network(roi_align(x, part, side, aligned=True)) for part in places.split(CROPS)]
        scores, shifts = (torch.cat(parts) for parts in zip(*judged, strict=True))
        passed = scores >= threshold
        return Candidates(squares, scores, found.picture).take(passed), shifts[passed]


@lru_cache(maxsize=1)
def mtcnn() -> Mtcnn:
    """Return the detector with its weights and default options, on the CPU. It is loaded once."""
    return load()


def load(min_size: float | None = None, thresholds: tuple[float, float, float] = THRESHOLDS) -> Mtcnn:
    """Return a detector with the weights of this package, on the CPU. For the arguments, see `Mtcnn`.

    Raises:
        InputError: An argument is out of its range.
    """
    detector = Mtcnn(min_size, thresholds)
    detector.load_state_dict(load_file(shipped_file(WEIGHTS)))
    return detector


def _best(found: Candidates, threshold: float) -> Tensor:
    """Return the numbers of the boxes that no better one of their picture overlaps, the best first."""
    return batched_nms(found.boxes, found.scores, found.picture, threshold)


def apart(found: Candidates, threshold: float) -> Tensor:
    """Return the numbers of the boxes that no better one overlaps by a share of the smaller one of the two."""
    areas = box_area(found.boxes)
    iou = box_iou(found.boxes, found.boxes)
    shared = iou / (1 + iou) * (areas[:, None] + areas)
    over = shared > threshold * torch.minimum(areas[:, None], areas)
    over &= found.picture[:, None] == found.picture
    kept: list[int] = []
    for row in found.scores.argsort(descending=True, stable=True).tolist():
        if not over[row, kept].any():
            kept.append(row)
    return torch.tensor(kept, dtype=torch.long, device=areas.device)


def _moved(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Return boxes with their sides moved by shares of the width and the height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + shifts * sides.repeat(1, 2)


def _squares(boxes: Tensor) -> Tensor:
    """Return squares of the longer sides around the same middles."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half], 1)
