"""The plan of a scene in which figures look at things: where they stand, where they face, and what their gaze meets.

A gaze is a ray from the centre of a head. Objects and heads stop it and bodies do not. For the ray each of them is the
disc that contains it, and the figure looks at the first disc on the way, or out of the picture if there is none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from plm_core.shapes import graph
from plm_core.shapes.graph import Sprite
from plm_core.shapes.words import CLOTHES, RGB, SIZES

HEAD = (0.085, 0.105)  # radii of heads, as fractions of the image's side
RADII = {"small": (0.075, 0.09), "large": (0.12, 0.14)}  # smaller than elsewhere, to leave room for the figures
NOSE = 1.45  # the distance of the tip of the nose from the centre of the head, in radii of the head
MARGIN = math.radians(8)  # a head can turn this far to either side, and its gaze still meets the same thing
AWAY = 0.3  # the share of figures that look out of the picture, where there is such a direction
AT_HEADS = 0.2  # the share of the other figures that look at a head, where they can
ATTEMPTS = 12  # directions tried before a figure cannot look out of the picture
HOLD = 12  # a clip shows two looks, and one more for every so many frames
# Skin, hair and eyes.
FACES: tuple[tuple[RGB, RGB, RGB], ...] = (
    ((240, 200, 168), (58, 36, 24), (20, 20, 20)),
    ((236, 192, 160), (140, 60, 25), (20, 20, 20)),
    ((205, 152, 112), (24, 20, 20), (20, 20, 20)),
    ((196, 142, 104), (242, 220, 140), (20, 20, 20)),
    ((142, 94, 64), (22, 16, 16), (250, 250, 250)),
    ((96, 64, 48), (218, 218, 212), (250, 250, 250)),
    ((178, 178, 182), (44, 44, 58), (20, 20, 20)),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A head above a body. Lengths are in pixels. The angle of the gaze is in radians, clockwise from the right."""

    x: float
    y: float
    radius: float
    face: tuple[RGB, RGB, RGB]
    clothes: str
    angle: float = 0.0

    @property
    def name(self) -> str:
        """The words for the figure, for example "person in navy"."""
        return f"person in {self.clothes}"

    @property
    def head(self) -> Sprite:
        """The round of the head."""
        return self._part("circle", self.face[0])

    @property
    def body(self) -> Sprite:
        """The shoulders below the head, which do not turn. The edge of the picture may cut them off."""
        place = replace(self, y=self.y + 2.1 * self.radius, angle=0.0)
        return place._part("body", CLOTHES[self.clothes], size=1.35)

    @property
    def parts(self) -> tuple[Sprite, ...]:
        """The nose, and then the pieces of the round of the head, in drawing order."""
        skin, hair, eyes = self.face
        return (
            self._part("nose", skin, size=NOSE),
            self.head,
            self._part("hair", hair),
            self._part("circle", eyes, 0.42, -0.42, 0.2),
            self._part("circle", eyes, 0.42, 0.42, 0.2),
        )

    def _part(self, shape: str, rgb: RGB, ahead: float = 0.0, right: float = 0.0, size: float = 1.0) -> Sprite:
        """Return a piece of the head at a place relative to the gaze, with lengths in radii of the head."""
        cos, sin = math.cos(self.angle) * self.radius, math.sin(self.angle) * self.radius
        x, y = self.x + ahead * cos - right * sin, self.y + ahead * sin + right * cos
        return Sprite(shape, "", "", rgb, x, y, size * self.radius, self.angle)


Thing: TypeAlias = Figure | Sprite


@dataclass(frozen=True, slots=True)
class Gaze:
    """What a figure looks at.

    Attributes:
        target: The index into the things, which are the objects and then the heads; None for a gaze that leaves the
            picture.
        steady: Whether the answer stays the same when the head turns by up to `MARGIN` to either side.
    """

    target: int | None
    steady: bool


@dataclass(frozen=True, slots=True)
class Party:
    """The plan of a picture: its objects in drawing order, and its figures."""

    objects: tuple[Sprite, ...]
    figures: tuple[Figure, ...]

    @property
    def things(self) -> tuple[Sprite, ...]:
        """All that a gaze can meet: the objects, and then the heads."""
        return (*self.objects, *(figure.head for figure in self.figures))

    def gazes(self) -> list[Gaze]:
        """Return what each figure looks at."""
        things = self.things
        return [gaze(things, len(self.objects) + index, figure.angle) for index, figure in enumerate(self.figures)]


def gaze(things: Sequence[Sprite], viewer: int, angle: float) -> Gaze:
    """Return what the gaze from the head ``things[viewer]`` meets in the direction ``angle``."""
    eye = things[viewer]
    entries = {
        index: entry
        for index, thing in enumerate(things)
        if index != viewer and (entry := _entry(eye, angle, thing)) is not None
    }
    target = min(entries, key=entries.__getitem__) if entries else None
    return Gaze(target, _steady(things, viewer, angle, target))


def gaze_point(eye: Sprite, thing: Sprite) -> tuple[float, float]:
    """Return the point of a thing that ``eye`` looks at: its centre, or where that is empty, the nearest middle.

    The point of a ring is on the near side of its band, and that of a crescent where it is thickest.
    """
    ahead, angle = {"ring": (-0.76, _direction(eye, thing)), "crescent": (-0.625, thing.angle)}.get(
        thing.shape, (0.0, 0.0)
    )
    return thing.x + ahead * thing.radius * math.cos(angle), thing.y + ahead * thing.radius * math.sin(angle)


def aim(things: Sequence[Sprite], viewer: int, target: int) -> float | None:
    """Return the angle at which a head looks at the point of a target, if that look is steady and shows the point."""
    if target == viewer:
        return None
    x, y = gaze_point(things[viewer], things[target])
    others = [thing for index, thing in enumerate(things) if index != target]
    if any(math.hypot(thing.x - x, thing.y - y) < thing.radius + 1 for thing in others):
        return None
    angle = math.atan2(y - things[viewer].y, x - things[viewer].x)
    return angle if _steady(things, viewer, angle, target) else None


def sample_party(rng: np.random.Generator, size: int, objects: tuple[int, int], people: tuple[int, int]) -> Party:
    """Sample a picture in which each figure looks at something, or out of the picture, without doubt."""
    party, (angles,) = _sample_looks(rng, size, objects, people, looks=1, fits=_fits)
    return _turned(party, angles)


def sample_moving_party(
    rng: np.random.Generator, size: int, frames: int, objects: tuple[int, int], people: tuple[int, int]
) -> list[Party]:
    """Sample the frames of a clip in which the heads turn from look to look. All else holds still."""
    looks = 2 + frames // HOLD
    party, angles = _sample_looks(rng, size, objects, people, looks, _fits_apart)
    phases = [graph.between(rng, -0.5, 0.5) for _ in party.figures]
    spans = 2 * looks - 1  # it holds each look, and turns between two
    return [
        _turned(
            party,
            [
                _turning([look[index] for look in angles], (frame + 0.5) / frames * spans + phase)
                for index, phase in enumerate(phases)
            ],
        )
        for frame in range(frames)
    ]


def describe_party(parties: Sequence[Party]) -> str:
    """Describe the objects, and then what each figure looks at, one after the other, in the frames of a clip."""
    objects, figures = parties[0].objects, parties[0].figures
    names = [sprite.name for sprite in objects] + [figure.name for figure in figures]
    clauses = [
        f"a {figure.name} looks {', then '.join(_look(names, target) for target in _looks(parties, index))}"
        for index, figure in enumerate(figures)
    ]
    return "; ".join([graph.describe_sprites(objects), *clauses])


def _looks(parties: Sequence[Party], figure: int) -> list[int | None]:
    """Return the targets of a figure in the first and last frame, and where its head rests, each change once."""
    angles = [party.figures[figure].angle for party in parties]
    rests = [
        frame
        for frame, angle in enumerate(angles)
        if frame in (0, len(angles) - 1) or angle == angles[frame - 1]  # a head at rest keeps its angle exactly
    ]
    targets = [parties[frame].gazes()[figure].target for frame in rests]
    return [target for index, target in enumerate(targets) if index == 0 or target != targets[index - 1]]


def _look(names: Sequence[str], target: int | None) -> str:
    return "out of the picture" if target is None else f"at the {names[target]}"


def _sample_looks(
    rng: np.random.Generator,
    size: int,
    objects: tuple[int, int],
    people: tuple[int, int],
    looks: int,
    fits: Callable[[Thing, list[Thing]], bool],
) -> tuple[Party, list[list[float]]]:
    """Sample figures among objects, and the angles of so many looks [look][figure]. Each look is steady."""
    identities = graph.sample_identities(rng, objects)
    count = graph.pick(rng, range(people[0], people[1] + 1))
    while True:
        party = _sample_places(rng, size, identities, count, fits)
        angles: list[list[float]] = []
        while len(angles) < looks:
            row = [_sample_angle(rng, party, index, [look[index] for look in angles]) for index in range(count)]
            found = [angle for angle in row if angle is not None]
            if len(found) < count:
                break
            angles.append(found)
        else:
            return party, angles


def _sample_places(
    rng: np.random.Generator,
    size: int,
    identities: Sequence[tuple[str, str]],
    count: int,
    fits: Callable[[Thing, list[Thing]], bool],
) -> Party:
    """Sample places where heads are free of all else, and objects may hide bodies and, a little, each other."""
    order = np.argsort(rng.random(len(CLOTHES)))[:count].tolist()
    clothes = [list(CLOTHES)[index] for index in order]

    def propose(part: str | tuple[str, str]) -> Thing:
        if isinstance(part, str):
            radius = graph.between(rng, *HEAD) * size
            low, high = NOSE * radius + 1, size - NOSE * radius - 1
            x, y = graph.between(rng, low, high), graph.between(rng, low, high - radius)
            return Figure(x, y, radius, graph.pick(rng, FACES), part)
        word = graph.pick(rng, SIZES)
        radius = graph.between(rng, *RADII[word]) * size
        low, high = radius + 1, size - radius - 1
        centre = (graph.between(rng, low, high), graph.between(rng, low, high))
        return graph.sample_sprite(rng, part, word, centre, radius)

    placed = graph.scatter(lambda: [*clothes, *identities], propose, fits)
    return Party(
        tuple(thing for thing in placed if isinstance(thing, Sprite)),
        tuple(thing for thing in placed if isinstance(thing, Figure)),
    )


def _fits(candidate: Thing, placed: list[Thing]) -> bool:
    figures = [other for other in placed if isinstance(other, Figure)]
    if isinstance(candidate, Figure):
        return all(_apart(candidate, other.body) and _apart(other, candidate.body) for other in figures) and all(
            _apart(candidate, other.head, NOSE) for other in figures
        )
    objects = [other for other in placed if isinstance(other, Sprite)]
    return (
        all(_apart(figure, candidate) for figure in figures)
        and all(graph.depth(candidate, figure.body) <= graph.TUCK * candidate.radius for figure in figures)
        and graph.tucks(candidate, objects)
    )


def _fits_apart(candidate: Thing, placed: list[Thing]) -> bool:
    """Also keep objects apart, so that what a turning head looks at is never hidden."""
    return _fits(candidate, placed) and (
        isinstance(candidate, Figure)
        or all(graph.depth(candidate, other) <= 0 for other in placed if isinstance(other, Sprite))
    )


def _apart(figure: Figure, thing: Sprite, grown: float = 1.0) -> bool:
    """Return whether a head, with its nose in any direction, stays a pixel away from a disc of so many radii."""
    gap = math.hypot(figure.x - thing.x, figure.y - thing.y) - NOSE * figure.radius - grown * thing.radius
    return gap >= 1


def _sample_angle(rng: np.random.Generator, party: Party, figure: int, before: Sequence[float]) -> float | None:
    """Sample where a figure faces, if there is a steady look for it: elsewhere than in its look before, if it can."""
    things, viewer = party.things, len(party.objects) + figure
    last = gaze(things, viewer, before[-1]).target if before else -1
    aims = {target: angle for target in range(len(things)) if (angle := aim(things, viewer, target)) is not None}
    objects = [target for target in aims if target < len(party.objects) and target != last]
    heads = [target for target in aims if target >= len(party.objects) and target != last]
    away = _sample_away(rng, things, viewer) if last is not None else None
    if away is not None and (rng.random() < AWAY or not objects + heads):
        return away
    wish = heads if rng.random() < AT_HEADS else objects
    choices = wish or objects or heads or list(aims)
    return aims[graph.pick(rng, choices)] if choices else None


def _sample_away(rng: np.random.Generator, things: Sequence[Sprite], viewer: int) -> float | None:
    for _ in range(ATTEMPTS):
        angle = graph.between(rng, -math.pi, math.pi)
        if _steady(things, viewer, angle, None):
            return angle
    return None


def _steady(things: Sequence[Sprite], viewer: int, angle: float, target: int | None) -> bool:
    """Return whether all rays within `MARGIN` of an angle meet the target first, or meet nothing if it is None.

    A ray that meets the target enters it before the distance of its centre. So it is enough that no other disc that
    reaches between the rays begins nearer than that. The others count with a pixel more, since a mask is made of whole
    pixels.
    """
    eye = things[viewer]
    far = math.inf
    if target is not None:
        thing = things[target]
        far = _distance(eye, thing)
        if _turn(angle, _direction(eye, thing)) + MARGIN > math.asin(thing.radius / far):
            return False
    return not any(
        _distance(eye, thing) - thing.radius - 1 < far
        and _turn(angle, _direction(eye, thing)) < MARGIN + math.asin((thing.radius + 1) / _distance(eye, thing))
        for index, thing in enumerate(things)
        if index not in (viewer, target)
    )


def _entry(eye: Sprite, angle: float, thing: Sprite) -> float | None:
    """Return the distance at which a ray enters a disc, or None if it misses it."""
    turn, distance = _turn(angle, _direction(eye, thing)), _distance(eye, thing)
    across = distance * math.sin(turn)
    if turn >= math.pi / 2 or across > thing.radius:
        return None
    return distance * math.cos(turn) - math.sqrt(thing.radius**2 - across**2)


def _distance(eye: Sprite, thing: Sprite) -> float:
    return math.hypot(thing.x - eye.x, thing.y - eye.y)


def _direction(eye: Sprite, thing: Sprite) -> float:
    return math.atan2(thing.y - eye.y, thing.x - eye.x)


def _turn(a: float, b: float) -> float:
    """Return the size of the turn from one angle to another, from 0 to pi."""
    return abs(_signed_turn(a, b))


def _signed_turn(a: float, b: float) -> float:
    return math.remainder(b - a, math.tau)


def _turning(angles: Sequence[float], position: float) -> float:
    """Return the angle at a position: it holds in even spans, and in odd ones it turns the short way, softly."""
    span = min(max(int(position), 0), 2 * len(angles) - 2)
    start = angles[span // 2]
    if span % 2 == 0:
        return start
    share = position - span
    return start + share**2 * (3 - 2 * share) * _signed_turn(start, angles[span // 2 + 1])


def _turned(party: Party, angles: Sequence[float]) -> Party:
    figures = [replace(figure, angle=angle) for figure, angle in zip(party.figures, angles, strict=True)]
    return replace(party, figures=tuple(figures))
