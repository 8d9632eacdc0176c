"""Conversations as token ids, labels and places for media, as the Perception Language Model was trained on them.

A conversation becomes pieces of text: what the user says, with all that stands before it, and what the assistant
answers, with its header. Each piece is encoded by itself. Every token of an answer's piece is a target, no other is.
Special strings such as ``<|eot_id|>`` in a text become special tokens, as in the original; but the placeholder of
visual tokens is refused there, since nothing could be put in its place.

A chunk is one square picture that the vision tower sees: a tile, a thumbnail, a frame. It becomes some visual tokens,
each of which has a placeholder in the ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from plm_core.errors import InputError, MissingDependency, NotSupported
from plm_core.utils.near_misses import miss
from plm_core.utils.text import first_line, shown

IGNORE = -100
"""The label of a token that is no target."""
IMAGE, VIDEO = "<image>", "<video>"
"""What stands in a text for an image and for a video."""
MediaType = Literal["image", "multi_image", "video", "text"]
"""One image, several images of one chunk each, a video, or no media at all."""
DATE = "26 Jul 2024"
"""The date in the system prompts of chat templates that write one. Today's would give other ids tomorrow."""


class Tokenizer(Protocol):
    """What is needed of a tokenizer. Those of transformers have it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text, in which the strings of special tokens are special tokens."""

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        """Return the id of a token; None or the id of the unknown token if there is none."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """The strings around the turns of a conversation."""

    name: str
    header: str
    """What comes before a turn, with ``{role}``."""
    end_of_turn: str
    """What comes after a turn."""
    image: str
    """The placeholder of one visual token, of images and of videos."""
    pad: str
    """The token that fills rows up, which a model also stops at."""
    begin: str = ""
    """What comes before everything else."""
    end: str = ""
    """What comes after the last answer."""

    def header_of(self, role: str) -> str:
        """Return what comes before a turn of ``role``."""
        return self.header.format(role=role)

    def turn(self, role: str, text: str) -> str:
        """Return a turn with what comes before and after it."""
        return self.header_of(role) + text + self.end_of_turn


LLAMA3 = ChatFormat(
    name="llama3",
    begin="<|begin_of_text|>",
    header="<|start_header_id|>{role}<|end_header_id|>\n\n",
    end_of_turn="<|eot_id|>",
    end="<|end_of_text|>",
    image="<|image|>",
    pad="<|end_of_text|>",
)
CHATML = ChatFormat(
    name="chatml",
    header="<|im_start|>{role}\n",
    end_of_turn="<|im_end|>\n",
    image="<|image_pad|>",
    pad="<|endoftext|>",
)
# Each format with the special tokens that tell it, and the tokens that can be its placeholder, the preferred one first.
# In the vocabulary of Llama 3 itself, the placeholder's id still has the name of a reserved token.
_FORMATS = (
    (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), ("<|image|>", "<|reserved_special_token_0|>")),
    (CHATML, ("<|im_start|>", "<|im_end|>"), ("<|image_pad|>", "<|image|>")),
)


@dataclass(frozen=True)
class Encoded:
    """A conversation for a model."""

    input_ids: list[int]
    labels: list[int]
    """The id of each token that is a target, else `IGNORE`. They are aligned with the ids, not shifted."""
    media: list[int]
    """The positions of the placeholders."""

    @property
    def targets(self) -> int:
        """The number of targets, which is 0 if no answer fits."""
        return len(self.labels) - self.labels.count(IGNORE)


@dataclass(frozen=True)
class Exchanges:
    """A conversation as questions with their answers."""

    pairs: list[tuple[str, str]]
    system: str | None = None
    """The system message, if the conversation has one of its own."""


def format_of(tokenizer: Tokenizer) -> ChatFormat:
    """Return the format of a tokenizer, which is known by its special tokens.

    Raises:
        NotSupported: It has the special tokens of no format, or none that can be the placeholder.
    """
    for chat, tokens, placeholders in _FORMATS:
        if all(_id(tokenizer, token) is not None for token in tokens):
            known = [token for token in placeholders if _id(tokenizer, token) is not None]
            if not known:
                raise NotSupported(
                    f"the tokenizer has no token for visual tokens in the format {chat.name}: one of "
                    f"{', '.join(placeholders)} must be a special token of it"
                )
            return replace(chat, image=known[0])
    needed = " or ".join(f"{', '.join(tokens)} ({chat.name})" for chat, tokens, _ in _FORMATS)
    raise NotSupported(f"the tokenizer has the special tokens of no known chat format: {needed} are needed")


def default_system(tokenizer: Any, chat: ChatFormat) -> str:
    """Return the system prompt that the tokenizer's own chat template writes if a conversation has none.

    It is empty if the template writes none or there is no template.

    Raises:
        InputError: The template cannot be rendered.
        MissingDependency: jinja2 is not installed.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    text = _rendered(tokenizer)
    header = chat.header_of("system")
    return text.partition(header)[2].partition(chat.end_of_turn.rstrip())[0] if header in text else ""


def exchanges(conversation: Any) -> Exchanges:
    """Return the questions and answers in a list of turns ``{"from": "human" or "assistant", "value": ...}``.

    Turns of the assistant before the first human one are left out. The first turn of all may be from "system". Answers
    that are no text are converted to text.

    Raises:
        InputError: A turn is of another form, or they do not take turns. The message names the turn, from 1.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise InputError("conversations is no list of turns")
    turns = [_turn(number, turn) for number, turn in enumerate(conversation, 1)]
    system = turns.pop(0)[2] if turns[0][1] == "system" else None
    while turns and turns[0][1] == "assistant":
        turns.pop(0)
    for place, (number, role, _) in enumerate(turns):
        expected = ("human", "assistant")[place % 2]
        if role != expected:
            raise InputError(f"turn {number} is from {role}, where one from {expected} is expected")
    if not turns or len(turns) % 2:
        raise InputError("the last turn is not from assistant" if turns else "there is no turn from human")
    texts = [text for _, _, text in turns]
    return Exchanges(list(zip(texts[::2], texts[1::2], strict=True)), system)


class ChatEncoder:
    """Encodes conversations for one tokenizer.

    Args:
        tokenizer: A tokenizer of transformers, or any object with its ``encode`` and ``convert_tokens_to_ids``.
        tokens: The visual tokens of one chunk.
        format: The strings around the turns (default: known by the tokenizer's special tokens).
        system: The system prompt of conversations that have none of their own (default: that of the tokenizer's chat
            template). An empty one is left out.

    Attributes:
        format: The strings around the turns.
        system: The system prompt.
        image_id: The id of the placeholder.
        pad_id: The id of the token that fills rows up.
        stop_ids: The ids at which an answer ends.

    Raises:
        NotSupported: The tokenizer has the special tokens of no known format.
        InputError: ``tokens`` is not 1 or more, or the chat template cannot be rendered.
    """

    def __init__(
        self, tokenizer: Tokenizer, tokens: int, *, format: ChatFormat | None = None, system: str | None = None
    ) -> None:
        if tokens < 1:
            raise InputError(f"tokens {tokens} is not allowed: 1 or more is")
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.format = format_of(tokenizer) if format is None else format
        self.system = default_system(tokenizer, self.format) if system is None else system
        self.image_id = self._known(self.format.image)
        self.pad_id = self._known(self.format.pad)
        self.stop_ids = (self.pad_id, self._known(self.format.end_of_turn.strip()))

    def training(
        self,
        conversation: Any,
        chunks: int = 0,
        media_type: MediaType = "image",
        max_length: int | None = None,
    ) -> Encoded:
        """Return a conversation to train on.

        The placeholders of an image or a video stand before the first question, whose ``<image>`` and ``<video>`` are
        deleted. With several images each ``<image>`` of the questions is the place of one of them.

        A piece with which there would be more than ``max_length - 1`` ids is left out with all that follow it. So there
        may be no targets (`Encoded.targets`), and fewer placeholders than the chunks of several images have.

        Args:
            conversation: The turns, see `exchanges`.
            chunks: The number of chunks.
            media_type: What the chunks are. Of "text" they are not looked at.
            max_length: The most ids, plus one (default: no limit).

        Raises:
            InputError: The conversation is not allowed; there are more or fewer ``<image>`` than several images; a text
                has the placeholder; or not even the first question fits.
        """
        talk = exchanges(conversation)
        questions, counts = self._placed([question for question, _ in talk.pairs], chunks, media_type)
        pieces = self._pieces(questions, talk)
        repeats = iter(counts)
        ids: list[int] = []
        labels: list[int] = []
        for text, answers in pieces:
            piece = self._expanded(text, repeats)
            if max_length is not None and len(ids) + len(piece) + 1 > max_length:
                if not ids:
                    raise _too_long("the first question", len(piece), max_length)
                break
            ids += piece
            labels += piece if answers else [IGNORE] * len(piece)
        return self._encoded(ids, labels)

    def warmup(self, conversation: Any, chunks: int, max_length: int | None = None) -> Encoded:
        """Return a caption to train the projector alone on: the placeholders, the answer and a newline.

        The question is not looked at, and there are no turns.

        Args:
            conversation: One question and its answer, see `exchanges`.
            chunks: The number of chunks.
            max_length: As for `training`.

        Raises:
            InputError: The conversation is not allowed, has more than one question, or its media do not fit.
        """
        pairs = exchanges(conversation).pairs
        if len(pairs) > 1:
            raise InputError(f"the conversation has {len(pairs)} questions; the warm-up takes one with its answer")
        self._check_plain(pairs[0][1])
        ids = [self.image_id] * (chunks * self.tokens)
        if max_length is not None and len(ids) + 1 > max_length:
            raise _too_long("the image or video", len(ids), max_length)
        answer = self._ids(pairs[0][1] + "\n")
        if max_length is not None and len(ids) + len(answer) + 1 > max_length:
            answer = []
        return self._encoded(ids + answer, [IGNORE] * len(ids) + answer)

    def prompt(self, messages: str | Sequence[Mapping[str, Any]], chunks: int | Sequence[int] = 0) -> Encoded:
        """Return a prompt for an answer of the assistant. It has no targets.

        Args:
            messages: A question, or messages of transformers, ``{"role": "user", "content": "..."}``, with texts
                as contents. The first may be from "system"; then "user" and "assistant" take turns, and the last is
                from "user".
            chunks: The number of chunks of all media, as in the original: if there are exactly as many ``<image>`` in
                the questions, each is the place of one chunk. Otherwise they are deleted, and all chunks come before
                the question that had the first of them. Or the number of each medium's own: one medium is placed in
                the same way; of several, each ``<image>`` or ``<video>`` is the place of one, or there are none of
                these and all come before the first question.

        Raises:
            InputError: A message is not allowed, a text has the placeholder, or the number of ``<image>`` does not fit
                the media.
        """
        system, texts = _messages(messages)
        questions = texts[::2]
        for text in (*texts, system or ""):
            self._check_plain(text)
        texts[::2], counts = self._prompt_placed(questions, chunks)
        parts = [self._start(system)]
        parts += [self.format.turn(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]
        parts.append(self.format.header_of("assistant"))
        ids = self._expanded("".join(parts), iter(counts))
        return self._encoded(ids, [IGNORE] * len(ids))

    def _known(self, token: str) -> int:
        number = _id(self.tokenizer, token)
        if number is None:
            raise NotSupported(f"the tokenizer has no token {token!r}, which the format {self.format.name} needs")
        return number

    def _placed(self, questions: list[str], chunks: int, media_type: MediaType) -> tuple[list[str], list[int]]:
        """Return the questions of a training with placeholders, and how many tokens each placeholder stands for."""
        for text in questions:
            self._check_plain(text)
        if media_type == "multi_image":
            found = sum(text.count(IMAGE) for text in questions)
            if found != chunks:
                raise InputError(f"the questions have {found} {IMAGE} for {chunks} images; as many are needed")
            return [text.replace(IMAGE, self.format.image) for text in questions], [self.tokens] * chunks
        first = without_markers(questions[0])
        if media_type == "text" or not chunks:
            return [first, *questions[1:]], []
        return [self.format.image + first, *questions[1:]], [chunks * self.tokens]

    def _pieces(self, questions: list[str], talk: Exchanges) -> Iterator[tuple[str, bool]]:
        """Yield each piece of a conversation, and whether it is an answer."""
        self._check_plain(talk.system or "")
        start = self._start(talk.system)
        last = len(questions) - 1
        for place, (question, (_, answer)) in enumerate(zip(questions, talk.pairs, strict=True)):
            self._check_plain(answer)
            yield start + self.format.turn("user", question), False
            yield self.format.turn("assistant", answer) + (self.format.end if place == last else ""), True
            start = ""

    def _start(self, system: str | None) -> str:
        """Return what comes before the first question."""
        text = self.system if system is None else system
        return self.format.begin + (self.format.turn("system", text) if text else "")

    def _prompt_placed(self, questions: list[str], chunks: int | Sequence[int]) -> tuple[list[str], list[int]]:
        """Return the questions of a prompt with placeholders, and how many tokens each placeholder stands for."""
        media = [chunks] if isinstance(chunks, int) else list(chunks)
        total, found = sum(media), sum(text.count(IMAGE) for text in questions)
        marked = found + sum(text.count(VIDEO) for text in questions)
        if not total and marked:
            raise InputError(f"the prompt has {marked} {IMAGE} or {VIDEO}, and there is no image or video")
        if len(media) > 1 and marked == len(media):
            return [self._marked(text) for text in questions], [count * self.tokens for count in media]
        if len(media) < 2 and found == total:
            return [text.replace(IMAGE, self.format.image) for text in questions], [self.tokens] * total
        if not isinstance(chunks, int) and marked > (len(media) == 1):
            raise InputError(f"the prompt has {marked} {IMAGE} or {VIDEO} for {len(media)} images or videos")
        first = next((i for i, text in enumerate(questions) if IMAGE in text or VIDEO in text), 0)
        questions = [without_markers(text) for text in questions]
        questions[first] = self.format.image + questions[first]
        return questions, [total * self.tokens]

    def _marked(self, text: str) -> str:
        return text.replace(VIDEO, IMAGE).replace(IMAGE, self.format.image)

    def _check_plain(self, text: str) -> None:
        if self.format.image in text:
            raise InputError(f"a text has {self.format.image!r}, which stands for visual tokens: leave it out")

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _expanded(self, text: str, repeats: Iterator[int]) -> list[int]:
        """Return the ids of a text, with each placeholder as often as it is needed."""
        ids: list[int] = []
        for number in self._ids(text):
            ids += [number] * next(repeats) if number == self.image_id else [number]
        return ids

    def _encoded(self, ids: list[int], labels: list[int]) -> Encoded:
        return Encoded(ids, labels, [place for place, number in enumerate(ids) if number == self.image_id])


def without_markers(text: str) -> str:
    """Return a text without ``<image>`` and ``<video>``, and without one newline beside each."""
    for marker in (IMAGE, VIDEO):
        for form in (f"{marker}\n", f"\n{marker}", marker):
            text = text.replace(form, "")
    return text


def _id(tokenizer: Tokenizer, token: str) -> int | None:
    number = tokenizer.convert_tokens_to_ids(token)
    return None if number is None or number == getattr(tokenizer, "unk_token_id", None) else int(number)


def _rendered(tokenizer: Any) -> str:
    """Return a chat of one message, which some templates take as a text and others in parts."""
    reason = ""
    for content in ("?", [{"type": "text", "text": "?"}]):
        try:
            return tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, date_string=DATE
            )
        except ImportError as e:
            raise MissingDependency(f"chat templates need jinja2: install plm-core[lm] ({first_line(e)})") from e
        except Exception as e:  # whatever the code in a template raises
            reason = first_line(e)
    raise InputError(f"the tokenizer's chat template cannot be rendered: {reason}")


def _turn(number: int, turn: Any) -> tuple[int, str, str]:
    """Return the number, the role and the text of a turn."""
    if not isinstance(turn, Mapping):
        raise InputError(f"turn {number} is no object with 'from' and 'value'")
    for key in turn:
        if key not in ("from", "value"):
            raise InputError(f"turn {number}: {miss('key', str(key), ('from', 'value'))}")
    role, value = turn.get("from"), turn.get("value")
    roles = ("human", "assistant", "system") if number == 1 else ("human", "assistant")
    if role not in roles:
        raise InputError(f"turn {number} is from {shown(repr(role))}; {' and '.join(roles)} are allowed")
    if value is None or (role != "assistant" and not isinstance(value, str)):
        raise InputError(f"turn {number} from {role} has no text as its value")
    return number, str(role), str(value)


def _messages(messages: str | Sequence[Mapping[str, Any]]) -> tuple[str | None, list[str]]:
    """Return the system message, if there is one, and the texts of the others in turns."""
    if isinstance(messages, str):
        return None, [messages]
    turns = [_message(number, message) for number, message in enumerate(messages, 1)]
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    for place, (role, _) in enumerate(turns):
        if role != ("user", "assistant")[place % 2]:
            raise InputError(f"messages: {role} is not allowed after {turns[place - 1][0] if place else 'system'}")
    if not len(turns) % 2:
        raise InputError("messages: the last one must be from user")
    return system, [text for _, text in turns]


def _message(number: int, message: Any) -> tuple[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if role not in ("system", "user", "assistant"):
        raise InputError(f"message {number} has the role {shown(repr(role))}; system, user and assistant are allowed")
    if not isinstance(content, str):
        raise InputError(f"message {number} from {role} has no text as its content")
    return role, content


def _too_long(what: str, length: int, max_length: int) -> InputError:
    return InputError(f"{what} has {length} tokens with all before it; max_length {max_length} leaves {max_length - 1}")
