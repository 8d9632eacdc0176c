"""What the benchmark asks of a model: the contract, and how an implementation of it is found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from plm_core.errors import InputError, PluginError
from plm_core.utils.arguments import DEVICE
from plm_core.utils.references import resolve
from plm_core.utils.text import first_line
from plm_core.videobench.frames import Box, read_frames

DEFAULT_LOADER = "plm_core.lm.answering:load_answerer"
"""What loads the models of plm_core.lm by name: a function (name, device=, dtype=) that returns an `Answerer`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One question about a video.

    Attributes:
        frames: The frames that the model sees, uint8 [T, H, W, 3], in order. A box is drawn on them if there is one.
        prompt: The question.
        max_new_tokens: The longest answer. Answers are the most likely ones (greedy).
        task: Name of the task.
        uid: The row.
        video: The file, for a model that takes frames by its own rule, which may do so where ``boxed`` is False.
        numbers: The numbers of the frames in the video.
        boxed: Whether the question is about a box that is drawn on the frames.
    """

    frames: Tensor = field(repr=False)
    prompt: str
    max_new_tokens: int
    task: str = ""
    uid: str = ""
    video: Path | None = None
    numbers: Sequence[int] = ()
    boxed: bool = False


@runtime_checkable
class Answerer(Protocol):
    """A model that answers questions about videos. Results carry its ``name``."""

    name: str

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one answer for each request.

        Raises:
            InputError: A request cannot be answered, for instance since it is beyond the model's context.
        """


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request whose video is not read yet. It is small, so it can be sent to another machine.

    Attributes:
        task: Name of the task.
        uid: The row.
        prompt: The question.
        video: The file.
        frames: The number of frames that the model sees.
        max_new_tokens: The longest answer.
        region: Whether a box marks the subject, and a video with fewer frames is an error.
        boxes: The boxes by the number of the frame in the video.
    """

    task: str
    uid: str
    prompt: str
    video: Path
    frames: int
    max_new_tokens: int
    region: bool = False
    boxes: Mapping[int, Box] = field(default_factory=dict)

    def request(self) -> Request:
        """Read the frames.

        Raises:
            MissingDependency: PyAV is not installed.
            InputError: The video cannot be read or is too short.
        """
        frames, numbers = read_frames(self.video, self.frames, self.boxes, whole=self.region)
        return Request(
            frames=frames,
            prompt=self.prompt,
            max_new_tokens=self.max_new_tokens,
            task=self.task,
            uid=self.uid,
            video=self.video,
            numbers=numbers,
            boxed=self.region,
        )


@dataclass(frozen=True, kw_only=True)
class AnswererName:
    """The name of a model, by which each process loads it for itself.

    Attributes:
        name: The name of a model of plm_core.lm, or ``module:function`` for a function that returns an `Answerer`.
        device: The device, for a model of plm_core.lm.
        dtype: The precision, for a model of plm_core.lm.
    """

    name: str
    device: str = DEVICE
    dtype: str = "fp32"

    def load(self) -> Answerer:
        """Load the model.

        Raises:
            MissingDependency: Something that it needs is not installed.
            PluginError: The function cannot be imported, or returns something else.
        """
        if ":" in self.name:
            answerer = resolve(self.name)()
        else:
            answerer = resolve(DEFAULT_LOADER)(self.name, device=self.device, dtype=self.dtype)
        if not isinstance(answerer, Answerer):
            raise PluginError(f"{self.name!r} gives {type(answerer).__name__}; name and answer(requests) are expected")
        return answerer


@dataclass(frozen=True)
class Answer:
    """The answer to a row, or why there is none.

    Attributes:
        task: Name of the task.
        uid: The row.
        text: The answer; None if there is none.
        error: Why there is none.
    """

    task: str
    uid: str
    text: str | None = None
    error: str | None = None


def read_all(questions: Sequence[Question | Answer]) -> list[Request | Answer]:
    """Read the frames of questions. One whose video cannot be read becomes an `Answer` that says why."""
    read: list[Request | Answer] = []
    for question in questions:
        try:
            read.append(question if isinstance(question, Answer) else question.request())
        except InputError as e:
            read.append(Answer(question.task, question.uid, error=first_line(e)))
    return read


def answer_all(answerer: Answerer, requests: Sequence[Request | Answer]) -> list[Answer]:
    """Return the answers of a model, after those that are there already.

    A request that the model refuses with an InputError, such as one beyond its context, becomes an `Answer` that says
    why. The others of its batch are asked one by one then.

    Raises:
        PluginError: The model does not give one text for each request.
    """
    asked = [item for item in requests if isinstance(item, Request)]
    answers = [item for item in requests if isinstance(item, Answer)]
    try:
        return answers + (_answer(answerer, asked) if asked else [])
    except InputError as e:
        if len(asked) > 1:
            return answers + [answer for request in asked for answer in answer_all(answerer, [request])]
        return [*answers, Answer(asked[0].task, asked[0].uid, error=first_line(e))]


def _answer(answerer: Answerer, requests: Sequence[Request]) -> list[Answer]:
    texts: Any = answerer.answer(requests)
    if not isinstance(texts, list | tuple) or len(texts) != len(requests):
        count = len(texts) if isinstance(texts, list | tuple) else type(texts).__name__
        raise PluginError(f"model {answerer.name!r} gives {count} answers to {len(requests)} requests")
    for text in texts:
        if not isinstance(text, str):
            raise PluginError(f"model {answerer.name!r} gives {type(text).__name__} as an answer; a text is expected")
    return [Answer(request.task, request.uid, text) for request, text in zip(requests, texts, strict=True)]
