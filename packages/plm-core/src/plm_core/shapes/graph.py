"""The scene graph: the objects of a picture or clip and their motions, decided before any pixel is drawn.

Every random choice comes from `Generator.random`, whose mapping from the bit stream is trivial. So scenes stay the same
when NumPy revises its other distributions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from plm_core.shapes.words import COLOURS, MOTIONS, PALETTE, RGB, SHAPES, SIZES

T = TypeVar("T")
Plan = TypeVar("Plan")

RADII = {"small": (0.10, 0.12), "large": (0.18, 0.22)}  # fractions of the image's side
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ROUND = ("circle", "ring")  # these look the same at every angle
TILT = math.radians(15)  # the largest tilt of a shape that does not spin
TUCK = 0.8  # the deepest overlap of two discs, as a fraction of the smaller radius
SHADE = 10.0  # the largest deviation of an object's colour from the palette, in levels of 255
TRAVEL = 0.45  # the longest path of an object, as a fraction of the image's side
ATTEMPTS = 20  # attempts per object before a crowded layout is dropped
GROWTH = 0.75  # the slowest growth, in pixels of radius per frame; a slower one would seldom change a mask


@dataclass(frozen=True, slots=True)
class Sprite:
    """One shape in one pose. Lengths are in pixels. The angle is in radians, and clockwise since y points down."""

    shape: str
    colour: str
    size: str
    rgb: RGB
    x: float
    y: float
    radius: float
    angle: float
    visible: bool = True

    @property
    def name(self) -> str:
        """The words for the sprite, for example "small red circle"."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Motion:
    """The motion of a sprite in the frames [start, end), as a constant change per frame."""

    name: str
    start: int
    end: int
    dx: float = 0
    dy: float = 0
    growth: float = 0
    turn: float = 0

    @property
    def steps(self) -> int:
        """The number of changes, one fewer than the number of frames that show them."""
        return self.end - self.start - 1


@dataclass(frozen=True, slots=True)
class Actor:
    """A sprite in its first pose, and its motion."""

    sprite: Sprite
    motion: Motion

    def at(self, frame: int) -> Sprite:
        """Return the pose of the sprite in a frame. It is at rest before its motion starts and after it ends."""
        motion, sprite = self.motion, self.sprite
        step = min(max(frame - motion.start, 0), motion.steps)
        return replace(
            sprite,
            x=sprite.x + step * motion.dx,
            y=sprite.y + step * motion.dy,
            radius=sprite.radius + step * motion.growth,
            angle=sprite.angle + step * motion.turn,
            visible=motion.name != "blink" or step % 2 == 0,
        )

    def extent(self) -> tuple[float, float, float, float]:
        """Return the box (x0, y0, x1, y1) that contains the disc of the sprite in every frame."""
        ends = self.at(self.motion.start), self.at(self.motion.end - 1)
        return (
            min(s.x - s.radius for s in ends),
            min(s.y - s.radius for s in ends),
            max(s.x + s.radius for s in ends),
            max(s.y + s.radius for s in ends),
        )

    def spans(self, frames: int) -> list[tuple[str, int, int]]:
        """Return the motion, and the stillness before and after it, each with its first frame and one past its last."""
        motion = self.motion
        spans = [("still", 0, motion.start), (motion.name, motion.start, motion.end), ("still", motion.end, frames)]
        return [span for span in spans if span[1] < span[2]]


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A gradient from one grey to another along an angle, with faint strokes on it, and grain (in levels) over all."""

    start: RGB
    end: RGB
    angle: float
    strokes: tuple[Sprite, ...]
    grain: float


def sample_sprites(rng: np.random.Generator, size: int, objects: tuple[int, int]) -> list[Sprite]:
    """Sample the sprites of a picture, in drawing order. Each may overlap a little with at most one other."""
    identities = sample_identities(rng, objects)

    def propose(identity: tuple[str, str]) -> Sprite:
        word = pick(rng, SIZES)
        radius = between(rng, *RADII[word]) * size
        low, high = radius + 1, size - radius - 1
        return sample_sprite(rng, identity, word, (between(rng, low, high), between(rng, low, high)), radius)

    return scatter(lambda: identities, propose, tucks)


def sample_apart(rng: np.random.Generator, size: int, objects: tuple[int, int]) -> list[Sprite]:
    """Sample the sprites of a picture, none of which hides a part of another. Half of the pictures have two colours."""
    palette = COLOURS if pick(rng, (True, False)) else [COLOURS[i] for i in np.argsort(rng.random(len(COLOURS)))[:2]]
    identities = sample_identities(rng, objects, palette)

    def propose(identity: tuple[str, str]) -> Sprite:
        word = pick(rng, SIZES)
        radius = between(rng, *RADII[word]) * size
        low, high = radius + 1, size - radius - 1
        return sample_sprite(rng, identity, word, (between(rng, low, high), between(rng, low, high)), radius)

    return scatter(lambda: identities, propose, lambda sprite, others: all(depth(sprite, o) <= 0 for o in others))


def sample_actors(rng: np.random.Generator, size: int, frames: int, objects: tuple[int, int]) -> list[Actor]:
    """Sample the actors of a clip. Their paths never meet, so no event is hidden."""
    identities = sample_identities(rng, objects)

    def plan() -> list[tuple[tuple[str, str], str]]:
        return [(identity, pick(rng, _possible(identity[0], frames))) for identity in identities]

    def propose(part: tuple[tuple[str, str], str]) -> Actor:
        identity, name = part
        word = {"grow": "small", "shrink": "large"}.get(name) or pick(rng, SIZES)
        radius = between(rng, *RADII[word]) * size
        motion = _motion(rng, name, radius, size, frames)
        pad = max(radius, radius + motion.steps * motion.growth) + 1
        x = between(rng, *_room(size, pad, motion.steps * motion.dx))
        y = between(rng, *_room(size, pad, motion.steps * motion.dy))
        return Actor(sample_sprite(rng, identity, word, (x, y), radius), motion)

    return scatter(plan, propose, _clear)


def sample_backdrop(rng: np.random.Generator, size: int, background: str, sprites: Sequence[Sprite]) -> Backdrop:
    """Sample a backdrop from which the sprites stand out: the one of six greys that is farthest from their colours."""
    flat = background == "plain"
    washes = [_wash(rng, flat) for _ in range(6)]
    start, end = max(washes, key=lambda wash: min(math.dist(rgb, s.rgb) for rgb in wash for s in sprites))
    angle = between(rng, 0, math.tau)
    strokes: tuple[Sprite, ...] = ()
    if background == "clutter":
        strokes = tuple(_stroke(rng, size, start) for _ in range(2 + int(rng.random() * 4)))
    return Backdrop(start, end, angle, strokes, grain=0.0 if flat else between(rng, 2, 8))


def describe_sprites(sprites: Sequence[Sprite]) -> str:
    """Describe a picture: one object by its name, two by their relation, and more as a list in drawing order."""
    names = [f"a {sprite.name}" for sprite in sprites]
    if len(sprites) == 2:
        return f"{names[0]} {_relation(*sprites)} {names[1]}"
    return _listed(names)


def describe_actors(actors: Sequence[Actor]) -> str:
    """Describe a clip, for example "a small red circle moves left while a large blue star spins"."""
    return describe_clauses([f"a {actor.sprite.name} {verb(actor.motion.name)}" for actor in actors])


def describe_clauses(clauses: Sequence[str]) -> str:
    """Join what the objects of a clip do: one clause stands alone, two happen at once, and more make a list."""
    return " while ".join(clauses) if len(clauses) == 2 else _listed(clauses)


def verb(motion: str) -> str:
    """Return what an object does, for example "moves left"."""
    if motion == "still":
        return "stays still"
    return f"moves {motion}" if motion in DIRECTIONS else f"{motion}s"


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Sample a number from a range, with equal chances."""
    return low + (high - low) * rng.random()


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Sample one of some options, with equal chances."""
    return options[int(rng.random() * len(options))]


def sample_identities(
    rng: np.random.Generator, objects: tuple[int, int], palette: Sequence[str] = COLOURS
) -> list[tuple[str, str]]:
    """Sample distinct (shape, colour) pairs, so that "the red circle" always means one object."""
    count = pick(rng, range(objects[0], objects[1] + 1))
    drawn = np.argsort(rng.random(len(SHAPES) * len(palette)))[:count].tolist()
    return [(SHAPES[pair // len(palette)], palette[pair % len(palette)]) for pair in drawn]


def scatter(
    plan: Callable[[], Sequence[Plan]], propose: Callable[[Plan], T], fits: Callable[[T, list[T]], bool]
) -> list[T]:
    """Propose places until each part of a plan has one, and make a new plan whenever no room is left."""
    while True:
        parts = plan()
        placed: list[T] = []
        for _ in range(ATTEMPTS * len(parts)):
            candidate = propose(parts[len(placed)])
            if fits(candidate, placed):
                placed.append(candidate)
            if len(placed) == len(parts):
                return placed


def tucks(sprite: Sprite, others: list[Sprite]) -> bool:
    """Return whether a sprite may lie on the others: over at most one, not deep, and never over its own colour.

    With one overlap per object, more than half of it stays visible even if its outline is thin.
    """
    under = [other for other in others if depth(sprite, other) > 0]
    if not under:
        return True
    (other, *more) = under
    return (
        not more
        and other.colour != sprite.colour
        and depth(sprite, other) <= TUCK * min(sprite.radius, other.radius)
        and all(depth(other, third) <= 0 for third in others if third is not other)
    )


def depth(a: Sprite, b: Sprite) -> float:
    """Return the depth of the overlap of two discs, plus a pixel of margin; not positive if they are apart."""
    return a.radius + b.radius + 1 - math.hypot(a.x - b.x, a.y - b.y)


def _clear(actor: Actor, others: list[Actor]) -> bool:
    """Return whether the path of an actor stays at least a pixel away from those of the others."""
    x0, y0, x1, y1 = actor.extent()
    boxes = (other.extent() for other in others)
    return all(x1 + 1 < a0 or a1 + 1 < x0 or y1 + 1 < b0 or b1 + 1 < y0 for a0, b0, a1, b1 in boxes)


def sample_sprite(
    rng: np.random.Generator, identity: tuple[str, str], size: str, centre: tuple[float, float], radius: float
) -> Sprite:
    """Sample the shade and tilt of an object whose shape, colour, place and size are decided."""
    shape, colour = identity
    shade = between(rng, -SHADE, SHADE)
    red, green, blue = PALETTE[colour]
    return Sprite(
        shape, colour, size, (red + shade, green + shade, blue + shade), *centre, radius, between(rng, -TILT, TILT)
    )


def _possible(shape: str, frames: int) -> list[str]:
    """Return the motions that are visible on a shape within so many frames. A blink is on, off and on again."""
    return [
        motion
        for motion in MOTIONS
        if motion == "still"
        or (frames >= 3 if motion == "blink" else frames >= 2 and not (motion == "spin" and shape in ROUND))
    ]


def _motion(rng: np.random.Generator, name: str, radius: float, size: int, frames: int) -> Motion:
    """Sample a motion of random pace that fills at least half of the clip, or of the frames it has room for."""
    if name == "still":
        return Motion(name, 0, frames)
    speed = 1 + int(rng.random() * size / 24)  # whole pixels, so that a box moves exactly as its object
    target = between(rng, *RADII["large" if name == "grow" else "small"]) * size
    longest = frames
    if name in DIRECTIONS:
        longest = min(frames, 1 + int(TRAVEL * size / speed))
    elif name in ("grow", "shrink"):
        longest = min(frames, 1 + int(abs(target - radius) / GROWTH))
    length = pick(rng, range(max(2, longest // 2), longest + 1))
    if name == "blink":
        length = max(3, length - 1 + length % 2)  # odd, so that it ends visible
    start = int(rng.random() * (frames - length + 1))
    dx, dy = DIRECTIONS.get(name, (0, 0))
    growth = (target - radius) / (length - 1) if name in ("grow", "shrink") else 0.0
    turn = math.radians(between(rng, 15, 25)) * pick(rng, (-1, 1)) if name == "spin" else 0.0
    return Motion(name, start, start + length, speed * dx, speed * dy, growth, turn)


def _room(size: int, pad: float, travel: float) -> tuple[float, float]:
    """Return the range of start coordinates for a centre that stays ``pad`` pixels inside while it travels."""
    return pad - min(travel, 0), size - pad - max(travel, 0)


def _wash(rng: np.random.Generator, flat: bool) -> tuple[RGB, RGB]:
    level = between(rng, 45, 210)
    red, green, blue = (level + between(rng, -12, 12) for _ in range(3))
    slope = 0.0 if flat else between(rng, -30, 30)
    return (red, green, blue), (red + slope, green + slope, blue + slope)


def _stroke(rng: np.random.Generator, size: int, ground: RGB) -> Sprite:
    """Sample a faint line in the hue of the backdrop: clutter that no colour word and no shape word describes."""
    lift = between(rng, 12, 26) * pick(rng, (-1, 1))
    rgb = (ground[0] + lift, ground[1] + lift, ground[2] + lift)
    x, y = between(rng, 0, size), between(rng, 0, size)
    return Sprite("stroke", "", "", rgb, x, y, between(rng, 0.08, 0.25) * size, between(rng, 0, math.pi))


def _relation(a: Sprite, b: Sprite) -> str:
    """Return the position of ``a`` relative to ``b``, along the axis that separates them more."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return "left of" if a.x < b.x else "right of"
    return "above" if a.y < b.y else "below"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
