"""The datasets of scenes and clips. Each item is a pure function of its index and of the options."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from plm_core.shapes import draw, graph
from plm_core.shapes.words import BACKGROUNDS, SPLITS

Item = TypeVar("Item", covariant=True)


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
        events: The motions, by object and then by time. The events of one object cover the clip: it is still before
            and after its one motion.
    """

    frames: NDArray[np.uint8]
    caption: str
    objects: tuple[Track, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True)
class _World(ABC, Generic[Item]):
    """The base of `Images` and `Clips`: checked options, indexing, and one random stream per item."""

    split: str = "train"
    _: KW_ONLY
    size: int = 64
    count: int = 1000
    seed: int = 0
    objects: tuple[int, int] = (1, 3)
    background: str = "clutter"

    stream: ClassVar[int]
    most: ClassVar[int]

    def __post_init__(self) -> None:
        _check_choice("split", self.split, SPLITS)
        _check_whole("size", self.size, 32, 4096)
        _check_whole("count", self.count, 1, 2**32)
        _check_whole("seed", self.seed, 0, 2**64 - 1)
        _check_span("objects", self.objects, 1, self.most)
        _check_choice("background", self.background, BACKGROUNDS)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        position = operator.index(index)
        if not -self.count <= position < self.count:
            raise IndexError(f"index must be from {-self.count} to {self.count - 1}, not {position}")
        key = (self.stream, SPLITS.index(self.split), position % self.count)
        return self._make(np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(self.seed), spawn_key=key))))

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(self.count))

    @abstractmethod
    def _make(self, rng: np.random.Generator) -> Item:
        """Sample and draw one item from one random stream."""


@dataclass(frozen=True)
class Images(_World[Scene]):
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
        backdrop = graph.sample_backdrop(rng, self.size, self.background, sprites)
        canvas = draw.paint_backdrop(backdrop, self.size)
        masks = draw.paint(canvas, sprites)
        objects = tuple(
            Object(sprite.shape, sprite.colour, sprite.size, (x0, y0, x1, y1), mask)
            for sprite, (x0, y0, x1, y1), mask in zip(sprites, draw.boxes(masks).tolist(), masks, strict=True)
        )
        return Scene(draw.expose(canvas, backdrop.grain, rng), graph.describe_sprites(sprites), objects)


@dataclass(frozen=True)
class Clips(_World[Clip]):
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
        _check_whole("frames", self.frames, 1, 4096)

    def _make(self, rng: np.random.Generator) -> Clip:
        actors = graph.sample_actors(rng, self.size, self.frames, self.objects)
        backdrop = graph.sample_backdrop(rng, self.size, self.background, [actor.sprite for actor in actors])
        canvas = np.repeat(draw.paint_backdrop(backdrop, self.size)[None], self.frames, axis=0)
        poses = [[actor.at(frame) for actor in actors] for frame in range(self.frames)]
        masks = np.stack([draw.paint(page, sprites) for page, sprites in zip(canvas, poses, strict=True)], axis=1)
        objects = tuple(
            Track(actor.sprite.shape, actor.sprite.colour, actor.sprite.size, boxes, mask)
            for actor, boxes, mask in zip(actors, draw.boxes(masks), masks, strict=True)
        )
        events = tuple(event for index, actor in enumerate(actors) for event in _events(index, actor, self.frames))
        return Clip(draw.expose(canvas, backdrop.grain, rng), graph.describe_actors(actors), objects, events)


def _events(index: int, actor: graph.Actor, frames: int) -> list[Event]:
    """Return the motion of an actor, and the stillness in the frames before and after it."""
    motion = actor.motion
    spans = [("still", 0, motion.start), (motion.name, motion.start, motion.end), ("still", motion.end, frames)]
    return [Event(index, name, start, end) for name, start, end in spans if start < end]


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if not (_is_whole(value) and low <= value <= high):
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def _check_span(name: str, value: Any, low: int, high: int) -> None:
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_whole, value))
    if not (pair and low <= value[0] <= value[1] <= high):
        raise ValueError(f"{name} must be (fewest, most) with {low} <= fewest <= most <= {high}, not {value!r}")
