"""Pictures of gaze: a heatmap laid over its image, and all that is known of the people in an image, painted into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gazelle.relations import THRESHOLD, Person, relate
from plm_core import InputError
from plm_core.prediction.drawing import canvas, place, readable_on
from plm_core.utils.images import Channels, decode_image
from plm_core.utils.ranges import check_choice

if TYPE_CHECKING:
    from gazelle.estimation import Look

Colour = tuple[int, int, int]
Point = tuple[float, float]

ALPHA = 128
"""The opacity of the heatmap in `overlay`, of 255."""
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 114, 178)
)  # fmt: skip
"""The colours of people. Okabe and Ito chose them such that colour-blind people can tell them apart."""
ALL: Colour = (213, 94, 0)
"""The colour of a heatmap of all people."""
NOBODY = "Nobody was found here."
"""The note of a picture without people."""
HEATS = ("own", "all", "none")
HEAT = 0.6
"""The opacity of a heatmap at its highest value in `paint`."""
FAINT = 0.1
"""The height of a peak that is painted as strongly as a higher one."""
EDGE: Colour = (16, 16, 16)
"""The colour around lines, so that they can be seen on any picture."""
_RED = ((0, 0), (0.35, 0), (0.66, 1), (0.89, 1), (1, 0.5))
_GREEN = ((0, 0), (0.125, 0), (0.375, 1), (0.64, 1), (0.91, 0), (1, 0))
_BLUE = ((0, 0.5), (0.11, 1), (0.34, 1), (0.65, 0), (1, 0))


def overlay(image: Any, heatmap: Any, bbox: Sequence[float] | None = None) -> Image.Image:
    """Lay a heatmap over an image, in the colours of "jet" from blue to red, half transparent.

    Args:
        image: A PIL image, or pixels uint8 [H, W] or [H, W, 1, 3 or 4]. Transparent pixels are laid over white first.
        heatmap: Values from 0 to 1, [rows, columns] of any size; others are clipped.
        bbox: The head box (x0, y0, x1, y1) in fractions of the image, drawn in green; None for no box.

    Returns:
        The picture, RGBA, of the size of the image.

    Raises:
        InputError: The heatmap is not two-dimensional or not finite, or the box is not four finite numbers in order.
    """
    picture = Channels(3)(image if isinstance(image, Image.Image) else decode_image(np.asarray(image)))
    levels = Image.fromarray(_levels(heatmap)).resize(picture.size, Image.Resampling.BILINEAR)
    colours = jet()[np.asarray(levels)]
    layer = np.dstack([colours, np.full(colours.shape[:2], ALPHA, np.uint8)])
    painted = Image.alpha_composite(picture.convert("RGBA"), Image.fromarray(layer))
    if bbox is not None:
        x0, y0, x1, y1 = _corners(bbox)
        corners = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
        ImageDraw.Draw(painted).rectangle(corners, outline="green", width=3)
    return painted


def paint(
    image: Any,
    looks: Sequence[Look],
    *,
    ids: Sequence[int] | None = None,
    threshold: float = THRESHOLD,
    heat: str = "own",
    note: str = "",
) -> Image.Image:
    """Paint for each person the box of the head, the heatmap, an arrow to the point looked at, and what it means.

    Everybody has a colour of their own, see `PALETTE`, and a number. Lines and letters grow with the picture, and a
    small picture is enlarged by a whole factor first. Whoever looks out of the picture has neither an arrow nor a
    heatmap, since the point means little then, and a dashed box.

    Args:
        image: A PIL image, or pixels uint8 [H, W] or [H, W, 1, 3 or 4].
        looks: Where each person looks.
        ids: The numbers of the people. None counts from 1.
        threshold: The probability from which a target is taken to be inside the picture.
        heat: ``own`` paints the heatmap of each person in the person's colour, ``all`` the mean of them in one, and
            ``none`` no heatmap.
        note: A text for the lower edge, such as what the model is not for.

    Returns:
        The picture, RGB.

    Raises:
        InputError: ``heat`` is none of these.
    """
    check_choice("heat", heat, HEATS)
    base = image if isinstance(image, Image.Image) else decode_image(np.asarray(image))
    picture, _, scale, line = canvas(base)
    people = relate(looks, ids, threshold=threshold)
    for heatmap, colour in _heats(people, heat):
        _paint_heat(picture, heatmap, colour)
    page = _Page(ImageDraw.Draw(picture), picture.size, scale, line)
    for person in people:
        page.head(person)
    for person in people:
        page.arrow(person)
    page.tags(people)
    if note:
        page.note(note)
    return picture


def colour_of(number: int) -> Colour:
    """Return the colour of a person by the number, from 1. After seven people the colours begin again."""
    return PALETTE[(number - 1) % len(PALETTE)]


def words_of(person: Person) -> str:
    """Return what a tag says of a person, such as ``2 looks out of the frame 0.91``."""
    inside = person.look.inside
    if inside is None or person.looks_inside is None:
        return f"{person.id} looks at {person.looks_at or 'the ring'}"
    if not person.looks_inside:
        return f"{person.id} looks out of the frame {1 - inside:.2f}"
    if person.looks_at is None:
        return f"{person.id} looks into the frame {inside:.2f}"
    return f"{person.id} looks at {person.looks_at}, in the frame {inside:.2f}"


def _heats(people: Sequence[Person], heat: str) -> Iterator[tuple[NDArray[np.float32], Colour]]:
    """Yield the heatmaps to paint, with values from 0 to 1, and their colours."""
    shown = [person for person in people if person.looks_inside is not False]
    maps = [_stretched(person.look.heatmap) for person in shown]
    if heat == "own":
        yield from zip(maps, [colour_of(person.id) for person in shown], strict=True)
    elif heat == "all" and maps:
        yield _stretched(np.mean(maps, axis=0)), ALL


def _stretched(heatmap: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a heatmap from 0 at its median to 1 at its highest value, since a peak of 0.3 could hardly be seen.

    A peak of less than `FAINT` above the median, as an untrained model gives, stays as faint as it is.
    """
    floor = np.median(heatmap)
    return ((heatmap - floor) / max(heatmap.max() - floor, FAINT)).clip(0, 1)


def _paint_heat(picture: Image.Image, heatmap: NDArray[np.float32], colour: Colour) -> None:
    levels = Image.fromarray((heatmap * (255 * HEAT)).astype(np.uint8))
    picture.paste(colour, (0, 0), levels.resize(picture.size, Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class _Page:
    """A picture that is drawn on: its pen, its size, the scale of letters and the width of lines."""

    pen: ImageDraw.ImageDraw
    size: tuple[int, int]
    scale: float
    line: int

    @property
    def rim(self) -> int:
        """The width of the dark edge around lines."""
        return max(1, round(self.line / 3))

    def corners(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Return a box in pixels of the page."""
        w, h = self.size
        return box[0] * w, box[1] * h, box[2] * w, box[3] * h

    def head(self, person: Person) -> None:
        """Draw the box of a head, dashed if the person looks out of the picture."""
        if person.look.box is None:
            return
        box = self.corners(person.look.box)
        if person.looks_inside is False:
            for side in _sides(box):
                self._dashes(*side, colour_of(person.id))
            return
        x0, y0, x1, y1 = box
        self.pen.rectangle((x0 - self.rim, y0 - self.rim, x1 + self.rim, y1 + self.rim), None, EDGE, self._thick)
        self.pen.rectangle(box, None, colour_of(person.id), self.line)

    @property
    def _thick(self) -> int:
        return self.line + 2 * self.rim

    def _dashes(self, start: Point, end: Point, colour: Colour) -> None:
        """Draw a dashed line."""
        length = math.dist(start, end)
        count = max(1, round(length / (7 * self.line)))
        for i in range(count):
            a, b = _between(start, end, (i + 0.2) / count), _between(start, end, (i + 0.8) / count)
            self.pen.line((*a, *b), EDGE, self._thick)
            self.pen.line((*a, *b), colour, self.line)

    def arrow(self, person: Person) -> None:
        """Draw a ring around the point looked at, and an arrow to it from the head."""
        if person.looks_inside is False:
            return
        colour, radius = colour_of(person.id), 3.5 * self.line
        point = (person.look.point[0] * self.size[0], person.look.point[1] * self.size[1])
        if person.look.box is not None:
            self._shaft(self.corners(person.look.box), point, radius, colour)
        self._ring(point, radius, colour)

    def _ring(self, point: Point, radius: float, colour: Colour) -> None:
        for r, width, c in ((radius + self.rim, self._thick, EDGE), (radius, self.line, colour)):
            self.pen.ellipse((point[0] - r, point[1] - r, point[0] + r, point[1] + r), None, c, width)

    def _shaft(self, box: tuple[float, float, float, float], point: Point, radius: float, colour: Colour) -> None:
        """Draw an arrow from the middle of a head to the ring around a point, if there is room for it."""
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        length, tip = math.dist(middle, point), 6.0 * self.line
        if length < radius + 1.5 * tip:
            return
        end = _between(middle, point, 1 - (radius + self.rim) / length)
        neck = _between(middle, point, 1 - (radius + self.rim + tip) / length)
        across = ((point[1] - middle[1]) / length, (middle[0] - point[0]) / length)
        for grown, width, c in ((self.rim, self._thick, EDGE), (0, self.line, colour)):
            half = 0.5 * tip + grown
            wings = [(neck[0] + sign * half * across[0], neck[1] + sign * half * across[1]) for sign in (1, -1)]
            self.pen.line((*middle, *neck), c, width)
            self.pen.polygon([end, *wings], c, c, width=max(1, grown))
            r = 1.2 * self.line + grown
            self.pen.ellipse((middle[0] - r, middle[1] - r, middle[0] + r, middle[1] + r), c)

    def tags(self, people: Sequence[Person]) -> None:
        """Write at each head what it looks at, where that hides the fewest heads and points."""
        font, pad, tall = self._font(15)
        ring = 5 * self.line
        spots = [(p.look.point[0] * self.size[0], p.look.point[1] * self.size[1]) for p in people]
        taken = [self.corners(p.look.box) for p in people if p.look.box is not None]
        taken += [
            (x - ring, y - ring, x + ring, y + ring)
            for p, (x, y) in zip(people, spots, strict=True)
            if p.looks_inside is not False
        ]
        for person, (x, y) in zip(people, spots, strict=True):
            text = words_of(person)
            box = self.corners(person.look.box) if person.look.box is not None else (x, y - ring, x, y + ring)
            wide = self.pen.textlength(text, font) + 2 * pad
            left, top = place(wide, tall, box, self.size, taken)
            taken.append((left, top, left + wide, top + tall))
            colour = colour_of(person.id)
            self.pen.rectangle(taken[-1], colour, EDGE, self.rim)
            self.pen.text((left + pad, top + pad / 2), text, readable_on(colour), font)

    def _font(self, height: float) -> tuple[Any, int, int]:
        """Return a font, the space around its words, and the height of a line with that."""
        font: Any = ImageFont.load_default(size=max(6, round(height * self.scale)))
        pad = max(2, round(height * self.scale / 4))
        return font, pad, sum(font.getmetrics()) + pad

    def note(self, text: str) -> None:
        """Write a text along the lower edge, on a dark band, in as many lines as it needs."""
        font, pad, tall = self._font(13)
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if self.pen.textlength(longer, font) <= self.size[0] - 2 * pad or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(word)
        top = self.size[1] - len(lines) * tall - pad
        self.pen.rectangle((0, top, *self.size), EDGE)
        for i, line in enumerate(lines):
            self.pen.text((pad, top + pad / 2 + i * tall), line, (255, 255, 255), font)


def _sides(box: tuple[float, float, float, float]) -> list[tuple[Point, Point]]:
    x0, y0, x1, y1 = box
    ring = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    return list(pairwise(ring))


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def jet() -> NDArray[np.uint8]:
    """Return the colour map "jet", uint8 [256, 3]. It is piecewise linear, so matplotlib is not needed for it."""
    places = np.linspace(0, 1, 256)
    channels = [np.array(channel).T for channel in (_RED, _GREEN, _BLUE)]
    return (255 * np.stack([np.interp(places, x, y) for x, y in channels], 1)).astype(np.uint8)


def _levels(heatmap: Any) -> NDArray[np.uint8]:
    """Return a heatmap as levels from 0 to 255, rounded down."""
    tensor = heatmap.detach().float().cpu() if hasattr(heatmap, "detach") else heatmap
    values = np.asarray(tensor, dtype=np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"heatmap has shape {list(values.shape)}; [rows, columns] is expected")
    if not np.isfinite(values).all():
        raise InputError("heatmap has values that are not finite")
    return (values.clip(0, 1) * 255).astype(np.uint8)


def _corners(bbox: Sequence[float]) -> Sequence[float]:
    box = np.asarray(bbox, dtype=np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[:2] > box[2:]).any():
        raise InputError(f"bbox is {list(bbox)}; (x0, y0, x1, y1) in fractions, x0 <= x1 and y0 <= y1, is expected")
    corners: list[float] = box.tolist()
    return corners
