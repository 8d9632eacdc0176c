"""The datasets of scenes and clips. Each item is a pure function of its index and of the options."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from plm_core.shapes import draw, gazing, graph
from plm_core.shapes.world import World, check_span, check_whole


@dataclass(frozen=True, eq=False)
class Object:
    """One object of a scene.

    Attributes:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        box: The pixel edges (x0, y0, x1, y1), tight around the mask; x1 and y1 are one past the last column and row.
        mask: The visible part, bool [H, W]. The masks of a scene share no pixel.
    """

    shape: str
    colour: str
    size: str
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture.

    Attributes:
        image: Red, green and blue levels, uint8 [H, W, 3].
        caption: A description, for example "a small red circle left of a large blue star".
        objects: The objects in drawing order. Later ones may hide less than half of an earlier one. No two have both
            the same shape and the same colour.
    """

    image: NDArray[np.uint8]
    caption: str
    objects: tuple[Object, ...]


class Event(NamedTuple):
    """The motion of one object of a clip, in a span of frames.

    Attributes:
        object: The index into the objects of the clip.
        motion: One of `MOTIONS`. From each frame of the span to the next, a move covers the same whole number of
            pixels, and a spin, growth or shrinkage the same amount. A blink hides every second frame of its span.
        start: The first frame of the span.
        end: One past the last frame of the span.
    """

    object: int
    motion: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Track:
    """One object of a clip.

    Attributes:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`, in the first frame.
        boxes: The pixel edges x0, y0, x1, y1 in each frame as in `Object`, float32 [T, 4]; zeros while a blink hides
            the object.
        masks: The visible part in each frame, bool [T, H, W]; empty while a blink hides the object.
    """

    shape: str
    colour: str
    size: str
    boxes: NDArray[np.float32]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Clip:
    """One moving scene.

    Attributes:
        frames: Red, green and blue levels, uint8 [T, H, W, 3]. Each frame has its own grain; the backdrop is the same.
        caption: A description, for example "a small red circle moves left while a large blue star spins".
        objects: The objects. They never overlap, and no two have both the same shape and the same colour.
        events: The motions, by object and then by time. The events of one object cover the clip. In `Clips` it is
            still before and after its one motion, and in `ClipQuestions` it can have several, one after the other.
    """

    frames: NDArray[np.uint8]
    caption: str
    objects: tuple[Track, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, eq=False)
class Person:
    """One figure in one picture, and what it looks at.

    Attributes:
        clothes: One of `CLOTHES`. No two figures of a picture wear the same.
        head: The pixel edges (x0, y0, x1, y1) of the round of the head as in `Object`. The nose is not part of it, so
            that the box does not tell where the figure looks.
        mask: The round of the head, bool [H, W]. Nothing covers it.
        centre: The centre of the head (x, y) in pixels, where the gaze starts.
        angle: The direction of the gaze in radians, from 0 for the right clockwise to below 2 pi.
        inside: Whether the figure looks at something in the picture.
        point: Where it looks, (x, y) in pixels: a visible point of an object, its centre unless that is empty, or the
            centre of a head. None if the gaze leaves the picture.
        object: The index into the objects of the picture, or None.
        person: The index into the people of the picture, or None.
        steady: Whether a head turned by up to 8 degrees to either side would look at the same thing. Only a head of a
            clip that is turning may look at something less certain.
    """

    clothes: str
    head: tuple[float, float, float, float]
    mask: NDArray[np.bool_]
    centre: tuple[float, float]
    angle: float
    inside: bool
    point: tuple[float, float] | None
    object: int | None
    person: int | None
    steady: bool


@dataclass(frozen=True, eq=False)
class GazeScene(Scene):
    """One picture of figures that look at things.

    The gaze is a ray from the centre of a head in the direction of its nose. Objects and heads stop it, and bodies do
    not. The figure looks at the first thing whose disc (the circle around its outline) the ray meets.

    Attributes:
        image: Red, green and blue levels, uint8 [H, W, 3].
        caption: A description, for example "a large red circle; a person in navy looks at the large red circle".
        objects: The objects in drawing order, as in `Scene`. They may hide bodies, but never heads.
        people: The figures.
    """

    people: tuple[Person, ...]


@dataclass(frozen=True, eq=False)
class GazeClip:
    """One clip of figures that turn their heads from one thing to another while all else holds still.

    Attributes:
        frames: Red, green and blue levels, uint8 [T, H, W, 3]. Each frame has its own grain.
        caption: A description of the objects, and of all that each figure looks at while its head rests, for example
            "a large red circle; a person in navy looks at the large red circle, then out of the picture".
        objects: The objects, which never overlap here. Their boxes and masks are those of every frame.
        people: The figures as they are in each frame, as ``people[frame][figure]``.
    """

    frames: NDArray[np.uint8]
    caption: str
    objects: tuple[Object, ...]
    people: tuple[tuple[Person, ...], ...]


@dataclass(frozen=True)
class Images(World[Scene]):
    """A sequence of still scenes. Each `Scene` is drawn when it is indexed.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels, at least 32; below 48, small shapes are hard to tell apart.
        count: Number of scenes, at least 1.
        seed: Random seed, at least 0.
        objects: Smallest and largest number of objects in a scene, from 1 to 6.
        background: "plain" (one grey), "gradient" (two greys and grain) or "clutter" (faint strokes as well).

    Raises:
        ValueError: An argument is out of range. The message names it.
        IndexError: The index is out of range.
    """

    _: KW_ONLY
    objects: tuple[int, int] = (1, 4)

    stream = 0
    most = 6

    def _make(self, rng: np.random.Generator) -> Scene:
        sprites = graph.sample_sprites(rng, self.size, self.objects)
        return render_scene(rng, self.size, self.background, sprites)


@dataclass(frozen=True)
class Clips(World[Clip]):
    """A sequence of moving scenes. Each `Clip` is drawn when it is indexed.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels, at least 32; below 48, small shapes are hard to tell apart.
        frames: Frames in a clip, at least 1; a single frame shows nothing move, and a blink needs three.
        count: Number of clips, at least 1.
        seed: Random seed, at least 0.
        objects: Smallest and largest number of objects in a clip, from 1 to 4.
        background: "plain" (one grey), "gradient" (two greys and grain) or "clutter" (faint strokes as well).

    Raises:
        ValueError: An argument is out of range. The message names it.
        IndexError: The index is out of range.
    """

    _: KW_ONLY
    frames: int = 8

    stream = 1
    most = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("frames", self.frames, 1, 4096)

    def _make(self, rng: np.random.Generator) -> Clip:
        actors = graph.sample_actors(rng, self.size, self.frames, self.objects)
        return render_clip(rng, self.size, self.frames, self.background, actors, graph.describe_actors(actors))


@dataclass(frozen=True)
class Gazes(World[GazeScene]):
    """A sequence of still scenes in which figures look at things. Each `GazeScene` is drawn when it is indexed.

    About three figures in ten look out of the picture, and the others at an object or at another head. Every gaze
    leaves a margin: with the head turned by up to 8 degrees to either side, the ray still meets the same thing first,
    or still leaves the picture.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels, at least 64. A head is a sixth to a fifth of it wide.
        count: Number of scenes, at least 1.
        seed: Random seed, at least 0.
        objects: Smallest and largest number of objects in a scene, from 1 to 6.
        background: "plain" (one grey), "gradient" (two greys and grain) or "clutter" (faint strokes as well).
        people: Smallest and largest number of figures in a scene, from 1 to 4.

    Raises:
        ValueError: An argument is out of range. The message names it.
        IndexError: The index is out of range.
    """

    _: KW_ONLY
    objects: tuple[int, int] = (2, 4)
    people: tuple[int, int] = (1, 3)

    stream = 2
    least = 64
    most = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_span("people", self.people, 1, 4)

    def _make(self, rng: np.random.Generator) -> GazeScene:
        party = gazing.sample_party(rng, self.size, self.objects, self.people)
        canvas, objects, backdrop = _stage(rng, self.size, self.background, party)
        people = _people(canvas, party)
        return GazeScene(draw.expose(canvas, backdrop.grain, rng), gazing.describe_party([party]), objects, people)


@dataclass(frozen=True)
class GazeClips(World[GazeClip]):
    """A sequence of clips in which figures turn their heads. Each `GazeClip` is drawn when it is indexed.

    Every figure looks at two things or more, one after the other, each with the margin of `Gazes`. While a head turns,
    the labels say what its ray meets in that frame, and `Person.steady` whether the margin holds.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels, at least 64. A head is a sixth to a fifth of it wide.
        count: Number of clips, at least 1.
        seed: Random seed, at least 0.
        objects: Smallest and largest number of objects in a clip, from 1 to 4.
        background: "plain" (one grey), "gradient" (two greys and grain) or "clutter" (faint strokes as well).
        people: Smallest and largest number of figures in a clip, from 1 to 4.
        frames: Frames in a clip, at least 2.

    Raises:
        ValueError: An argument is out of range. The message names it.
        IndexError: The index is out of range.
    """

    _: KW_ONLY
    objects: tuple[int, int] = (2, 4)
    people: tuple[int, int] = (1, 3)
    frames: int = 16

    stream = 3
    least = 64
    most = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_span("people", self.people, 1, 4)
        check_whole("frames", self.frames, 2, 4096)

    def _make(self, rng: np.random.Generator) -> GazeClip:
        parties = gazing.sample_moving_party(rng, self.size, self.frames, self.objects, self.people)
        stage, objects, backdrop = _stage(rng, self.size, self.background, parties[0])
        canvas = np.repeat(stage[None], self.frames, axis=0)
        people = tuple(_people(page, party) for page, party in zip(canvas, parties, strict=True))
        return GazeClip(draw.expose(canvas, backdrop.grain, rng), gazing.describe_party(parties), objects, people)


class Performer(Protocol):
    """An object of a clip: its first pose, its pose in each frame, and the spans of its motions."""

    @property
    def sprite(self) -> graph.Sprite:
        """The pose in the first frame."""

    def at(self, frame: int) -> graph.Sprite:
        """Return the pose in a frame."""

    def spans(self, frames: int) -> list[tuple[str, int, int]]:
        """Return each motion with its first frame and one past its last, so that they cover the frames."""


def render_scene(rng: np.random.Generator, size: int, background: str, sprites: Sequence[graph.Sprite]) -> Scene:
    """Sample a backdrop for sprites, and draw the labelled picture."""
    backdrop = graph.sample_backdrop(rng, size, background, sprites)
    canvas = draw.paint_backdrop(backdrop, size)
    objects = _objects(sprites, draw.paint(canvas, sprites))
    return Scene(draw.expose(canvas, backdrop.grain, rng), graph.describe_sprites(sprites), objects)


def render_clip(
    rng: np.random.Generator, size: int, frames: int, background: str, cast: Sequence[Performer], caption: str
) -> Clip:
    """Sample a backdrop for the objects of a clip, and draw its labelled frames."""
    backdrop = graph.sample_backdrop(rng, size, background, [performer.sprite for performer in cast])
    canvas = np.repeat(draw.paint_backdrop(backdrop, size)[None], frames, axis=0)
    poses = [[performer.at(frame) for performer in cast] for frame in range(frames)]
    masks = np.stack([draw.paint(page, sprites) for page, sprites in zip(canvas, poses, strict=True)], axis=1)
    objects = tuple(
        Track(performer.sprite.shape, performer.sprite.colour, performer.sprite.size, boxes, mask)
        for performer, boxes, mask in zip(cast, draw.boxes(masks), masks, strict=True)
    )
    events = tuple(Event(index, *span) for index, performer in enumerate(cast) for span in performer.spans(frames))
    return Clip(draw.expose(canvas, backdrop.grain, rng), caption, objects, events)


def _stage(
    rng: np.random.Generator, size: int, background: str, party: gazing.Party
) -> tuple[draw.Canvas, tuple[Object, ...], graph.Backdrop]:
    """Paint all but the heads: the backdrop, then the bodies, then the objects."""
    bodies = [figure.body for figure in party.figures]
    heads = [figure.head for figure in party.figures]
    backdrop = graph.sample_backdrop(rng, size, background, [*heads, *bodies, *party.objects])
    canvas = draw.paint_backdrop(backdrop, size)
    masks = draw.paint(canvas, [*bodies, *party.objects])[len(bodies) :]
    return canvas, _objects(party.objects, masks), backdrop


def _people(canvas: draw.Canvas, party: gazing.Party) -> tuple[Person, ...]:
    """Paint the heads of a party on a canvas, in place, and return its labelled figures."""
    parts = [figure.parts for figure in party.figures]
    painted = draw.paint(canvas, [part for head in parts for part in head])
    rounds = painted.reshape(len(parts), -1, *painted.shape[1:])[:, 1:]  # all but the nose
    masks: draw.Masks = np.logical_or.reduce(rounds, 1)
    return tuple(
        _person(party, index, gaze, (x0, y0, x1, y1), mask)
        for index, (gaze, (x0, y0, x1, y1), mask) in enumerate(
            zip(party.gazes(), draw.boxes(masks).tolist(), masks, strict=True)
        )
    )


def _person(
    party: gazing.Party, index: int, gaze: gazing.Gaze, head: tuple[float, float, float, float], mask: NDArray[np.bool_]
) -> Person:
    figure, target, objects = party.figures[index], gaze.target, len(party.objects)
    return Person(
        clothes=figure.clothes,
        head=head,
        mask=mask,
        centre=(figure.x, figure.y),
        angle=figure.angle % math.tau,
        inside=target is not None,
        point=None if target is None else gazing.gaze_point(figure.head, party.things[target]),
        object=target if target is not None and target < objects else None,
        person=target - objects if target is not None and target >= objects else None,
        steady=gaze.steady,
    )


def _objects(sprites: Sequence[graph.Sprite], masks: draw.Masks) -> tuple[Object, ...]:
    return tuple(
        Object(sprite.shape, sprite.colour, sprite.size, (x0, y0, x1, y1), mask)
        for sprite, (x0, y0, x1, y1), mask in zip(sprites, draw.boxes(masks).tolist(), masks, strict=True)
    )
