"""A question with its one right answer, and the phrases of which questions are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from plm_core.shapes import graph

T = TypeVar("T")
Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a picture or clip, all in words of `QUESTION_WORDS`.

    Attributes:
        kind: One of `PICTURE_KINDS` or `CLIP_KINDS`.
        question: The question, without its options.
        answer: The right answer in words; with options, one of them.
        options: The two answers to choose from, or none.
        object: The index into the objects of the item that the question is about, or None if it is about several.
        box: The pixel edges (x0, y0, x1, y1) of the region that the question or the answer names as text, or None.
        track: The box in each frame that points at the object, or None in the frames that hide it. It is None as a
            whole if words point at the object. Draw it with `draw_boxes` before a model sees the frames.
        span: The first and last frame that the question or the answer is about, or None.
        group: The words that all questions of one set of two-option questions share, or an empty text.
    """

    kind: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    object: int | None = None
    box: Box | None = None
    track: tuple[Box | None, ...] | None = None
    span: tuple[int, int] | None = None
    group: str = ""

    @property
    def prompt(self) -> str:
        """The question as a model reads it, with its options."""
        listed = [f" ({letter}) {option}" for letter, option in zip("ab", self.options, strict=False)]
        return f"{self.question} options:{''.join(listed)}" if listed else self.question

    @property
    def reply(self) -> str:
        """The reply that a model should give: "(a)" or "(b)" if there are options, else the answer."""
        return f"({'ab'[self.options.index(self.answer)]})" if self.options else self.answer


def region_text(box: Sequence[float], size: int) -> str:
    """Return a box as text, in thousandths of the picture cut down to whole ones, for example "[041,100,400,300]"."""
    return f"[{','.join(f'{int(min(max(edge / size, 0), 0.999) * 1000):03d}' for edge in box)}]"


def span_text(first: int, last: int) -> str:
    """Return a span of frames as text, for example "[0,3]"."""
    return f"[{first},{last}]"


def shuffled(rng: np.random.Generator, values: Sequence[T]) -> list[T]:
    """Return the values in a random order."""
    return [values[index] for index in np.argsort(rng.random(len(values))).tolist()]


def coin(rng: np.random.Generator) -> bool:
    """Return True or False with equal chances."""
    return graph.pick(rng, (True, False))


def pick_weighted(
    rng: np.random.Generator, options: Mapping[T, Sequence[object]], weights: Mapping[T, float]
) -> T | None:
    """Choose among the answers that a picture offers, with weights that make rare answers as frequent as others.

    Args:
        rng: The random stream.
        options: What can be asked so that it has the answer, by answer.
        weights: The weight of each answer.

    Returns:
        An answer that something has, or None if nothing has any.
    """
    offered = [answer for answer in weights if options.get(answer)]
    if not offered:
        return None
    edges = np.cumsum([weights[answer] for answer in offered])
    return offered[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def article(words: str) -> str:
    """Return words with "a" or "an" before them."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
