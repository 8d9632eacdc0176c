"""Questions about a clip: the five tasks of PLM-VideoBench in miniature.

- ``fgqa``: two-option questions about one fine detail. Those of one group differ in their wrong option alone.
- ``sgqa``: an open question about what an object does.
- ``rcap``: what an object does in a span of frames.
- ``rtloc``: the frames in which an object does something.
- ``rdcap``: all that an object does, with the frames of each motion.

A span names its first and last frame. The object is pointed at by its words or by a red box in the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from plm_core.shapes import graph
from plm_core.shapes.questions.asking import Box, Question, coin, shuffled, span_text
from plm_core.shapes.questions.marking import mark_track
from plm_core.shapes.questions.stories import is_possible
from plm_core.shapes.scenes import Clip, Event
from plm_core.shapes.words import COLOURS, MOTIONS, SHAPES

ROWS = 3  # the most rows of a group
CONFUSED = (("left", "right", "up", "down"), ("grow", "shrink"), ("still", "spin", "blink"))
"""Motions that a wrong option can put in place of each other. Each is about as likely as the others to be right."""
Make: TypeAlias = Callable[[np.random.Generator, Clip], tuple[Question, ...]]


def ask_clip(rng: np.random.Generator, clip: Clip, kinds: Sequence[str]) -> tuple[Question, ...]:
    """Ask the questions of each kind that the clip has a clear answer to. A group of ``fgqa`` has one to three."""
    return tuple(question for kind in kinds for question in CLIP_KINDS[kind](rng, clip))


def tell(motions: Sequence[str]) -> str:
    """Return what an object does as a sentence, for example "it moves left, then grows"."""
    return f"it {', then '.join(map(graph.verb, motions))}"


def story(clip: Clip, index: int) -> list[Event]:
    """Return the events of one object."""
    return [event for event in clip.events if event.object == index]


def _name(clip: Clip, index: int) -> str:
    return f"the {clip.objects[index].colour} {clip.objects[index].shape}"


def _point(rng: np.random.Generator, clip: Clip, index: int) -> tuple[str, tuple[Box | None, ...] | None]:
    """Choose how to point at an object: by its words, or by a box that follows it."""
    if coin(rng):
        return _name(clip, index), None
    return "the shape in the red box", mark_track(clip.objects[index].boxes, clip.frames.shape[1])


def _fgqa(rng: np.random.Generator, clip: Clip) -> tuple[Question, ...]:
    index = graph.pick(rng, range(len(clip.objects)))
    motions = [event.motion for event in story(clip, index)]
    if coin(rng):
        question, answer = f"what does {_name(clip, index)} do?", tell(motions)
        wrong = [tell(names) for names in _near_stories(rng, clip.objects[index].shape, motions)]
    else:
        single = _single(clip, index)
        if not single:
            return ()
        motion = graph.pick(rng, single).motion
        question, answer = f"which shape {graph.verb(motion)}?", _name(clip, index)
        wrong = _near_names(rng, clip, index, motion)
    base = Question(kind="fgqa", question=question, answer=answer, object=index, group=f"{question} {answer}")
    return tuple(replace(base, options=(answer, option) if coin(rng) else (option, answer)) for option in wrong[:ROWS])


def _near_stories(rng: np.random.Generator, shape: str, motions: Sequence[str]) -> list[tuple[str, ...]]:
    """Return stories that differ in their order alone, one at most, and then those that differ in one motion."""
    swapped = [
        (*motions[:at], other, *motions[at + 1 :])
        for at, motion in enumerate(motions)
        for group in CONFUSED
        if motion in group
        for other in group
        if other != motion
    ]
    ordered = [order for order in set(permutations(motions)) if list(order) != list(motions)]
    swapped, ordered = (
        shuffled(rng, sorted(names for names in near if is_possible(shape, names))) for near in (swapped, ordered)
    )
    return [*ordered[:1], *swapped]


def _near_names(rng: np.random.Generator, clip: Clip, index: int, motion: str) -> list[str]:
    """Return names that differ from an object's in its colour or its shape alone, and mean no other object.

    An object of such a name could have the motion.
    """
    taken = {_name(clip, other) for other in range(len(clip.objects))}
    track = clip.objects[index]
    recoloured = [f"the {colour} {track.shape}" for colour in COLOURS]
    reshaped = [f"the {track.colour} {shape}" for shape in SHAPES if is_possible(shape, [motion])]
    colours, shapes = (shuffled(rng, [name for name in names if name not in taken]) for names in (recoloured, reshaped))
    return [colours[0], shapes[0], *colours[1:]]


def _single(clip: Clip, index: int) -> list[Event]:
    """Return the events of an object whose motion no other event of the clip has."""
    counts = {motion: sum(event.motion == motion for event in clip.events) for motion in MOTIONS}
    return [event for event in story(clip, index) if counts[event.motion] == 1]


def _sgqa(rng: np.random.Generator, clip: Clip) -> tuple[Question, ...]:
    index = graph.pick(rng, range(len(clip.objects)))
    motions = [event.motion for event in story(clip, index)]
    subject = _name(clip, index)
    asked = [(f"what does {subject} do?", tell(motions))]
    if len(motions) > 1:
        asked += [
            (f"what does {subject} do first?", tell(motions[:1])),
            (f"what does {subject} do last?", tell(motions[-1:])),
        ]
    if single := _single(clip, index):
        asked.append((f"which shape {graph.verb(graph.pick(rng, single).motion)}?", subject))
    question, answer = graph.pick(rng, asked)
    return (Question(kind="sgqa", question=question, answer=answer, object=index),)


def _rcap(rng: np.random.Generator, clip: Clip) -> tuple[Question, ...]:
    index = graph.pick(rng, range(len(clip.objects)))
    event = graph.pick(rng, story(clip, index))
    subject, track = _point(rng, clip, index)
    span = (event.start, event.end - 1)
    question = f"what does {subject} do in the frames {span_text(*span)}?"
    answer = tell([event.motion])
    return (Question(kind="rcap", question=question, answer=answer, object=index, track=track, span=span),)


def _rtloc(rng: np.random.Generator, clip: Clip) -> tuple[Question, ...]:
    """Ask for the span of a motion that its object has once, and that does not fill the clip."""
    motions = [(event.object, event.motion) for event in clip.events]
    single = [
        event
        for event in clip.events
        if motions.count((event.object, event.motion)) == 1 and event.end - event.start < len(clip.frames)
    ]
    if not single:
        return ()
    event = graph.pick(rng, single)
    index = event.object
    subject, track = _point(rng, clip, index)
    span = (event.start, event.end - 1)
    question = f"in which frames is this true: {subject} {graph.verb(event.motion)}?"
    answer = span_text(*span)
    return (Question(kind="rtloc", question=question, answer=answer, object=index, track=track, span=span),)


def _rdcap(rng: np.random.Generator, clip: Clip) -> tuple[Question, ...]:
    index = graph.pick(rng, range(len(clip.objects)))
    subject, track = _point(rng, clip, index)
    pieces = [f"{span_text(e.start, e.end - 1)} {tell([e.motion])}" for e in story(clip, index)]
    question = f"what does {subject} do, and in which frames?"
    span = (0, len(clip.frames) - 1)
    return (Question(kind="rdcap", question=question, answer=", ".join(pieces), object=index, track=track, span=span),)


CLIP_KINDS: Mapping[str, Make] = MappingProxyType(
    {"fgqa": _fgqa, "sgqa": _sgqa, "rcap": _rcap, "rtloc": _rtloc, "rdcap": _rdcap}
)
"""The kinds of questions about one clip, which are the tasks of PLM-VideoBench, and the functions that ask them."""
