"""Questions about the words of the world, which need no picture."""

from __future__ import annotations

from plm_core.shapes.questions.asking import Question
from plm_core.shapes.words import COLOURS, SHAPES, SIZES

OPPOSITES = (
    ("left", "right"),
    ("up", "down"),
    ("above", "below"),
    ("top", "bottom"),
    ("first", "last"),
    ("small", "large"),
    ("grows", "shrinks"),
    ("yes", "no"),
)


def text_questions() -> tuple[Question, ...]:
    """Return all questions about words, each once: what kind of word one is, and what the opposite of one is."""
    kinds = [
        (word, kind) for words, kind in ((SHAPES, "shape"), (COLOURS, "colour"), (SIZES, "size")) for word in words
    ]
    named = [(f"is {word} a shape, a colour or a size?", kind) for word, kind in kinds]
    turned = [(f"what is the opposite of {a}?", b) for pair in OPPOSITES for a, b in (pair, pair[::-1])]
    return tuple(Question(kind="text", question=question, answer=answer) for question, answer in [*named, *turned])
