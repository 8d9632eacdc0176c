"""The parts of an answer that count: options, windows of frames, dense captions, and the replies of a judge.

The rules are those by which the published scores were made, quirks included (facts of the benchmark, section 12).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from plm_core.errors import InputError

Span = tuple[float, float]

FRAMES = 32
"""The number of frames that a model sees of each video, so answers speak of the frames 0 to 31."""
NOWHERE: Span = (float("inf"), float("inf"))
"""A window that overlaps with none, which stands for an answer without a window."""

_WINDOW = re.compile(r"\[([0-9]+(?:\.[0-9]+)?),\s*([0-9]+(?:\.[0-9]+)?)\]")
_PIECE = re.compile(r"\[([0-9]+),\s*([0-9]+)\]([^\[]*)")


def rescale(frame: int, total_frames: int, frames: int = FRAMES) -> int:
    """Return the number among the ``frames`` that a model sees for the number of a frame in the whole video."""
    return int(frame / (total_frames / frames))


def option_matches(prediction: str, target: str) -> bool:
    """Return whether an answer names the right option.

    Only the first words are compared. A leading "Answer:" is ignored.

    Args:
        prediction: The answer, such as ``(B) vertically``.
        target: The right option with its letter, such as ``(B) vertically.``.
    """
    text = prediction.lower()
    if "answer:" in text:
        text = text.replace("answer:", "").strip()
    first = text.split(" ")[0]
    letter = target.lower().split(" ")[0]
    return bool(first) and (first.replace(".", "") in letter or letter in first)


def first_window(text: str) -> Span | None:
    """Return the first ``[start, end]`` of two numbers in a text, or None if there is none."""
    match = _WINDOW.search(text)
    return (float(match[1]), float(match[2])) if match else None


def dense_pieces(text: str) -> list[tuple[Span, str]]:
    """Return the windows in a text with the caption behind each, up to the next ``[``."""
    return [((_frame(start), _frame(end)), _tidy(caption)) for start, end, caption in _PIECE.findall(text)]


def _frame(digits: str) -> float:
    # a model that repeats itself writes numbers beyond those that int() reads
    return int(digits) if len(digits) < 16 else float(digits)


def _tidy(caption: str) -> str:
    text = caption.replace(":", " ").replace("\nFrame ", "").replace("\n", " ").strip()
    return text.removesuffix(",").strip()


def caption_score(reply: str) -> float | None:
    """Return a judge's score of a caption as a share from 0 to 1, or None if the reply is nonsense.

    A reply is a JSON object whose ``score`` is a number from 0 to 10.
    """
    score = _object(reply).get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 10:
        return None
    return score / 10


def answer_verdict(reply: str) -> bool | None:
    """Return a judge's verdict on an answer, or None if the reply is nonsense.

    A reply is a JSON object with ``pred``, which is "yes" for a right answer.
    """
    verdict = _object(reply).get("pred")
    return verdict == "yes" if isinstance(verdict, str) else None


def _object(reply: str) -> Mapping[str, Any]:
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def target_option(row: Mapping[str, Any]) -> str:
    """Return the right option of a two-option question with its letter, such as ``(B) vertically.``.

    Raises:
        InputError: The answer is none of the options.
    """
    for letter, text in lettered(row["options"]):
        if text == row["answer"]:
            return f"({letter}) {text}"
    raise InputError(f"answer {row['answer']!r} is none of the options {list(row['options'].values())}")


def lettered(options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the options ``option_0``, ``option_1``, ... with their letters A, B, ..."""
    for key, text in options.items():
        yield chr(ord("A") + int(key.rpartition("_")[2])), text
