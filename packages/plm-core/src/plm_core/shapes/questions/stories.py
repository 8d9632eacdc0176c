"""The plan of a clip in which each object has a story: one to three motions, one after the other, without a gap.

Every motion lasts at least two frames, and a blink at least three, so that each can be seen and its span has a length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from plm_core.shapes import graph
from plm_core.shapes.graph import DIRECTIONS, ROUND, Motion, Sprite
from plm_core.shapes.words import MOTIONS, SIZES

MOST = 3  # motions in a story
SHORTEST = 2  # frames of a motion
PATH = (0.12, 0.3)  # the shortest and longest path of one motion, as fractions of the image's side


@dataclass(frozen=True, slots=True)
class Story:
    """A sprite in its first pose, and its motions, which cover the clip."""

    sprite: Sprite
    motions: tuple[Motion, ...]

    @property
    def words(self) -> str:
        """What the object does, for example "moves left, then grows"."""
        return ", then ".join(graph.verb(motion.name) for motion in self.motions)

    def at(self, frame: int) -> Sprite:
        """Return the pose of the sprite in a frame. A motion starts from the pose in which the one before it ended."""
        sprite = self.sprite
        steps = [min(max(frame - motion.start, 0), motion.steps) for motion in self.motions]
        moves = list(zip(steps, self.motions, strict=True))
        return replace(
            sprite,
            x=sprite.x + sum(step * motion.dx for step, motion in moves),
            y=sprite.y + sum(step * motion.dy for step, motion in moves),
            radius=sprite.radius + sum(step * motion.growth for step, motion in moves),
            angle=sprite.angle + sum(step * motion.turn for step, motion in moves),
            visible=not any(m.name == "blink" and step % 2 and frame < m.end for step, m in moves),
        )

    def spans(self, frames: int) -> list[tuple[str, int, int]]:
        """Return each motion with its first frame and one past its last."""
        return [(motion.name, motion.start, motion.end) for motion in self.motions]

    def extent(self) -> tuple[float, float, float, float]:
        """Return a box (x0, y0, x1, y1) that contains the disc of the sprite, at its largest, in every frame."""
        radius = max(_radii(self.sprite.radius, self.motions))
        x, y = _places([m.dx * m.steps for m in self.motions]), _places([m.dy * m.steps for m in self.motions])
        return (
            self.sprite.x + min(x) - radius,
            self.sprite.y + min(y) - radius,
            self.sprite.x + max(x) + radius,
            self.sprite.y + max(y) + radius,
        )


def is_possible(shape: str, names: Sequence[str]) -> bool:
    """Return whether an object of a shape can have these motions one after the other.

    A round shape does not spin, no motion follows itself, and what has grown can only shrink before it grows again.
    """
    changes = [name for name in names if name in ("grow", "shrink")]
    return (
        not (shape in ROUND and "spin" in names)
        and all(a != b for a, b in pairwise(names))
        and all(a != b for a, b in pairwise(changes))
    )


def sample_stories(rng: np.random.Generator, size: int, frames: int, objects: tuple[int, int]) -> list[Story]:
    """Sample the stories of a clip. The paths of the objects never meet."""
    most = min(MOST, frames // SHORTEST)
    parts = [(identity, graph.pick(rng, range(1, most + 1))) for identity in graph.sample_identities(rng, objects)]
    return graph.scatter(lambda: parts, lambda part: _sample_story(rng, size, frames, *part), _clear)


def _clear(story: Story, others: list[Story]) -> bool:
    """Return whether the path of an object stays at least a pixel away from those of the others."""
    x0, y0, x1, y1 = story.extent()
    boxes = (other.extent() for other in others)
    return all(x1 + 1 < a0 or a1 + 1 < x0 or y1 + 1 < b0 or b1 + 1 < y0 for a0, b0, a1, b1 in boxes)


def _sample_story(rng: np.random.Generator, size: int, frames: int, identity: tuple[str, str], count: int) -> Story:
    """Sample motions, their frames and paces, and a place from which the object never leaves the picture."""
    while True:
        word = graph.pick(rng, SIZES)
        names, lengths = _sample_outline(rng, frames, count)
        grows = [name for name in names if name in ("grow", "shrink")]
        if not is_possible(identity[0], names) or (grows and word != {"grow": "small", "shrink": "large"}[grows[0]]):
            continue
        radius = graph.between(rng, *graph.RADII[word]) * size
        motions = _sample_motions(rng, size, radius, names, lengths)
        largest = max(_radii(radius, motions))
        low_x, high_x = _room(size, largest, [m.dx * m.steps for m in motions])
        low_y, high_y = _room(size, largest, [m.dy * m.steps for m in motions])
        if low_x < high_x and low_y < high_y:
            centre = graph.between(rng, low_x, high_x), graph.between(rng, low_y, high_y)
            return Story(graph.sample_sprite(rng, identity, word, centre, radius), motions)


def _sample_outline(rng: np.random.Generator, frames: int, count: int) -> tuple[list[str], list[int]]:
    """Sample the motions of a story and the number of frames of each."""
    while True:
        cuts = sorted(graph.pick(rng, range(1, frames)) for _ in range(count - 1))
        lengths = [end - start for start, end in zip([0, *cuts], [*cuts, frames], strict=True)]
        names = [graph.pick(rng, MOTIONS) for _ in lengths]
        if all(length >= SHORTEST + (name == "blink") for name, length in zip(names, lengths, strict=True)):
            return names, lengths


def _sample_motions(
    rng: np.random.Generator, size: int, radius: float, names: Sequence[str], lengths: Sequence[int]
) -> tuple[Motion, ...]:
    motions: list[Motion] = []
    start = 0
    for name, length in zip(names, lengths, strict=True):
        steps = length - 1
        slowest, fastest = math.ceil(PATH[0] * size / steps), max(1, int(PATH[1] * size / steps))
        pace = graph.pick(rng, range(min(slowest, fastest), fastest + 1))  # whole pixels, as in `graph`
        dx, dy = DIRECTIONS.get(name, (0, 0))
        growth = turn = 0.0
        if name in ("grow", "shrink"):
            target = graph.between(rng, *graph.RADII["large" if name == "grow" else "small"]) * size
            growth, radius = (target - radius) / steps, target
        elif name == "spin":
            turn = math.radians(graph.between(rng, 20, 30)) * graph.pick(rng, (-1, 1))
        motions.append(Motion(name, start, start + length, pace * dx, pace * dy, growth, turn))
        start += length
    return tuple(motions)


def _radii(radius: float, motions: Sequence[Motion]) -> list[float]:
    """Return the radius at the start and after each motion."""
    return list(accumulate((motion.growth * motion.steps for motion in motions), initial=radius))


def _places(moves: Sequence[float]) -> list[float]:
    """Return the places along one axis, from the start on, between which an object makes these moves."""
    return list(accumulate(moves, initial=0.0))


def _room(size: int, radius: float, moves: Sequence[float]) -> tuple[float, float]:
    """Return the range of start coordinates for a disc that stays a pixel inside while it makes these moves."""
    return radius + 1 - min(_places(moves)), size - radius - 1 - max(_places(moves))
