"""What captioners and writers are asked, and how the questions that a writer makes are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from plm_core.errors import InputError
from plm_core.utils.text import shown

NEEDED = {"merge": ("captions",), "questions": ("caption", "number")}
"""The places that a prompt must have, since the answer would say nothing about the item otherwise."""
STARTS = 20
"""The number of opening brackets in a reply at which a list is looked for."""
_PLACE = re.compile(r"\{(captions|caption|notes|number|medium)\}")
_MARK = re.compile(r"<image>|<video>|<\|[^<>|]{1,40}\|>")


class UnusableReply(ValueError):
    """A reply that is no data. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What captioners and writers are asked. Each may be replaced.

    Places in the prompts of the writer are filled in: ``{captions}`` with the descriptions to merge, a line each;
    ``{caption}`` with the description of an item; ``{notes}`` with the text that is known about it, or nothing;
    ``{number}`` with the number of questions; ``{medium}`` with "image" or "video".

    Attributes:
        image: Asks a captioner about an image.
        frame: Asks a captioner about a key frame of a video.
        video: Asks a captioner about a clip.
        merge: Asks the writer for one description.
        questions: Asks the writer for questions with answers.

    Raises:
        InputError: A prompt lacks a place that it needs.
    """

    image: str = "Describe this image in detail."
    frame: str = "Describe in detail what this frame of a video shows."
    video: str = "Describe in detail what happens in this video, in the order in which it happens."
    merge: str = (
        "Below are several descriptions of the same clip of a video: of single frames, with their times, and of the "
        "whole clip. Write one description of the clip from them, in the order in which things happen. Use only what "
        "they tell. Leave out what they contradict each other about, and do not mention frames, times or "
        "descriptions. Answer with the description alone.\n\n{captions}{notes}"
    )
    questions: str = (
        "Below is a description of one {medium}. Write {number} different questions that somebody who sees the "
        "{medium} can answer, each with its short answer. The answers must follow from the text below. Do not mention "
        "the description. Answer with JSON alone, a list of this form: "
        '[{"question": "...", "answer": "..."}]\n\nDescription: {caption}{notes}'
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            prompt = getattr(self, field.name)
            if not isinstance(prompt, str):
                raise InputError(f"prompt {field.name!r} is {shown(repr(prompt))}, no text")
            for place in NEEDED.get(field.name, ()):
                if f"{{{place}}}" not in prompt:
                    raise InputError(f"prompt {field.name!r} has no {{{place}}}, in the place of which that is put")

    def merging(self, captions: str, notes: str) -> str:
        """Return the prompt for one description of several."""
        return _filled(self.merge, {"captions": captions, "notes": _notes(notes)})

    def asking(self, medium: str, caption: str, notes: str, number: int) -> str:
        """Return the prompt for questions."""
        values = {"medium": medium, "caption": caption, "notes": _notes(notes), "number": str(number)}
        return _filled(self.questions, values)


def _notes(notes: str) -> str:
    return f"\n\nKnown about it, such as text that it shows: {notes}" if notes else ""


def _filled(prompt: str, values: Mapping[str, str]) -> str:
    """Fill in the places in one pass, so that places in what is filled in stay. JSON in the prompt stays too."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), prompt)


def usable(text: str) -> str:
    """Return a text that can be trained on, without the blanks around it.

    Raises:
        UnusableReply: It is empty, or holds the mark of a medium or of a special token.
    """
    text = text.strip()
    if not text:
        raise UnusableReply("the reply is empty")
    if mark := _MARK.search(text):
        raise UnusableReply(f"the reply has the mark {mark[0]}")
    return text


def parse_pairs(reply: str, number: int) -> list[dict[str, str]]:
    """Return the questions and answers in a reply, at most ``number``.

    The list may stand within other text, such as a fence of Markdown.

    Raises:
        UnusableReply: There is no list of objects with a question and an answer, or one of them is not `usable`.
    """
    for value in _lists(reply):
        if value and all(isinstance(entry, dict) for entry in value):
            return [_pair(entry) for entry in value[:number]]
    raise UnusableReply("the reply has no JSON list of objects with question and answer")


def _lists(reply: str) -> Iterator[list[object]]:
    """Yield the JSON lists that begin in a reply."""
    for match in [*re.finditer(r"\[", reply)][:STARTS]:
        try:
            value, _ = json.JSONDecoder().raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        yield value


def _pair(entry: object) -> dict[str, str]:
    texts = [entry.get(key) if isinstance(entry, dict) else None for key in ("question", "answer")]
    if not all(isinstance(text, str) for text in texts):
        raise UnusableReply(f"{shown(repr(entry))} has no question and answer that are texts")
    question, answer = (usable(str(text)) for text in texts)
    return {"question": question, "answer": answer}
