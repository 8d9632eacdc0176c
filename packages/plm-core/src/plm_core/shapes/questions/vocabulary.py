"""The closed vocabulary of all questions and answers, and the way from a text to its words and back.

This module imports nothing heavy, so that a tokenizer can be built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from plm_core.shapes.words import COLOURS, SHAPES, SIZES

VERBS = ("moves", "stays", "grows", "shrinks", "spins", "blinks")
PLACES = ("left", "right", "above", "below", "top", "bottom", "middle", "up", "down")
# fmt: off
OTHERS = (
    "a", "an", "and", "are", "at", "b", "box", "colour", "describe", "do", "does", "first", "frames", "from",
    "has", "how", "in", "is", "it", "larger", "last", "list", "many", "no", "of", "opposite", "options", "or",
    "picture", "quarter", "red", "second", "shape", "shapes", "size", "smaller", "still", "the", "then", "there",
    "this", "to", "true", "what", "where", "which", "while", "yes",
)
# fmt: on
PUNCTUATION = ("[", "]", "(", ")", ",", ".", ":", "?")

QUESTION_WORDS: tuple[str, ...] = (
    tuple(sorted({*SHAPES, *COLOURS, *SIZES, *VERBS, *PLACES, *OTHERS}) + [str(digit) for digit in range(10)])
    + PUNCTUATION
)
"""Every word that a question, an option or an answer of the world can hold.

A number is a row of digits, and each digit is one word. Whole numbers as words would need a thousand of them for the
coordinates of a region, which are exact to a thousandth, and digits need ten.
"""

WORD = re.compile(r"[a-z]+|[0-9]|[][(),.:?]")
GLUED_LEFT = frozenset("]),.:?")  # no blank stands before these
GLUED_RIGHT = frozenset("[(")  # and none after these


def split_words(text: str) -> list[str]:
    """Cut a text of the world into its words.

        >>> split_words("is it in [041,100]?")
        ['is', 'it', 'in', '[', '0', '4', '1', ',', '1', '0', '0', ']', '?']

    Raises:
        ValueError: The text has a word outside of `QUESTION_WORDS`. The message names it.
    """
    words = WORD.findall(text)
    unknown = set(words) - set(QUESTION_WORDS) or set(WORD.sub("", text)) - {" ", "\n"}
    if unknown:
        raise ValueError(f"text has words or signs that the world does not know: {', '.join(sorted(unknown))}")
    return words


def join_words(words: Iterable[str]) -> str:
    """Put the words of a text together again, so that ``join_words(split_words(text)) == text``.

    No blank stands between two digits, nor inside of brackets after a comma.
    """
    text, before, inside = "", "", False
    for word in words:
        inside = word == "[" or (inside and word != "]")
        glued = word in GLUED_LEFT or before in GLUED_RIGHT or not text
        digits = word.isdigit() and (before.isdigit() or (inside and before == ","))
        text += word if glued or digits else f" {word}"
        before = word
    return text
