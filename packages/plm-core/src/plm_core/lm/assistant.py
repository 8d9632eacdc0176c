"""A model that answers questions about images and videos: one, many in batches, or a conversation.

assistant = Assistant.from_pretrained("plm_micro_shapes")
assistant.ask("what shape is red?", ["photo.jpg"]).text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from plm_core.errors import InputError
from plm_core.lm.model import PerceptionLM
from plm_core.lm.pretrained import from_pretrained
from plm_core.lm.processor import Prepared, Processor
from plm_core.lm.prompts import Medium, Prompt, marked
from plm_core.lm.video import Span, TimeMap, in_seconds
from plm_core.utils.arguments import DEVICE
from plm_core.utils.devices import pick_device

MAX_NEW_TOKENS = 256
"""The most tokens of an answer, as in the original."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and what it cost.

    Attributes:
        text: The answer, in the words of the model, which counts the frames of a video from 0.
        in_seconds: The answer with its spans of frames in seconds of the video. The same as ``text`` without a video.
        spans: These spans.
        chunks: Tiles, images and frames that the model saw.
        visual_tokens: Visual tokens of the prompt.
        prompt_tokens: Tokens of the prompt, visual ones too.
        new_tokens: Tokens of the answer, its end too.
        finished: Whether the model ended the answer itself. Otherwise it was cut off.
    """

    text: str
    in_seconds: str
    spans: tuple[Span, ...] = ()
    chunks: int
    visual_tokens: int
    prompt_tokens: int
    new_tokens: int
    finished: bool


class Assistant:
    """A model with its processor.

    Args:
        model: The model, which is set to eval mode.
        processor: Its processor.

    Raises:
        InputError: The processor gives another number of visual tokens per chunk than the model does.
    """

    def __init__(self, model: PerceptionLM, processor: Processor) -> None:
        self.model = model.eval()
        self.processor = processor
        settings = processor.settings
        tokens = self._tokens_of_chunk()
        if tokens != settings.tokens:
            raise InputError(
                f"the model gives {tokens} visual tokens for a chunk of {settings.size} pixels, and the processor "
                f"expects {settings.tokens}"
            )

    def _tokens_of_chunk(self) -> int:
        size = self.processor.settings.size
        with torch.no_grad():
            return self.model.image_features(torch.zeros(1, 3, size, size)).shape[1]

    @classmethod
    def from_pretrained(
        cls, source: str | Path, dtype: torch.dtype | None = None, device: str = DEVICE, **settings: Any
    ) -> Assistant:
        """Load a model and its processor.

        Args:
            source: See `plm_core.lm.from_pretrained`.
            dtype: Data type of the weights; None for that of the file.
            device: "auto" for the accelerator if there is one, else the CPU; "cpu", or the accelerator's name.
            **settings: Changes of the `plm_core.lm.media.MediaSettings`, such as ``max_tokens``.

        Raises:
            WeightsError: Something cannot be obtained or does not fit.
            InputError: The source holds another kind of model.
        """
        processor = Processor.from_pretrained(source, **settings)
        return cls(from_pretrained(source, dtype).to(pick_device(device)), processor)

    def keep_tokens(self, count: int | None) -> None:
        """Merge the visual tokens of each chunk before the decoder reads them, see `plm_core.lm.reduction`.

        Args:
            count: How many are left of each chunk; None for all. More than there are change nothing.

        Raises:
            InputError: The number is below 1, or a chunk would take more tokens than ``max_tokens`` allows.
        """
        before = self.model.vision.keep
        self.model.vision.keep = count
        try:
            self.processor = self.processor.with_settings(tokens=self._tokens_of_chunk())
        except InputError:
            self.model.vision.keep = before
            raise

    def ask(
        self,
        text: str | Prompt,
        media: Sequence[Medium] = (),
        *,
        boxes: Sequence[Any] = (),
        stream: Callable[[str], None] | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer one question.

        Args:
            text: The question, or a prompt.
            media: The images and videos that it is about.
            boxes: Regions of the one image, for which ``<|bbox0|>`` and so on stand in the question.
            stream: A function that is called with each piece of the answer as it comes.
            **generation: Keywords of transformers' ``generate``. By default the answer is greedy and has at most
                `MAX_NEW_TOKENS` tokens. It never has more than the model has room for after the prompt.

        Raises:
            InputError: See `Processor.prepare`.
        """
        prompt = text if isinstance(text, Prompt) else Prompt(text=text, media=media, boxes=boxes)
        prepared = self.processor.prepare([prompt])
        if stream is not None:
            generation["streamer"] = _streamer(self.processor.tokenizer, stream)
        return self._answers(prepared, generation)[0]

    def answers(self, prompts: Sequence[Prompt], batch_size: int = 8, **generation: Any) -> Iterator[Answer]:
        """Answer many questions in batches, in their order.

        Args:
            prompts: The questions.
            batch_size: Prompts per batch. They may have different lengths.
            **generation: See `ask`.

        Raises:
            InputError: See `Processor.prepare`.
        """
        for start in range(0, len(prompts), batch_size):
            yield from self._answers(self.processor.prepare(prompts[start : start + batch_size]), generation)

    def _answers(self, prepared: Prepared, generation: Mapping[str, Any]) -> list[Answer]:
        room = self.processor.max_length - max(prepared.lengths)
        options = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, **generation}
        options["max_new_tokens"] = min(options["max_new_tokens"], room)
        inputs = {name: value.to(self.model.device) for name, value in prepared.inputs.items()}
        stops = self.processor.stop_ids
        ids = self.model.generate(**inputs, eos_token_id=stops, pad_token_id=self.processor.encoder.pad_id, **options)
        rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._answer(row, prepared, number) for number, row in enumerate(rows)]

    def _answer(self, row: list[int], prepared: Prepared, number: int) -> Answer:
        stop = next((place for place, token in enumerate(row) if token in self.processor.stop_ids), None)
        text = self.processor.decode(row)
        times: TimeMap | None = prepared.times[number]
        told, spans = in_seconds(text, times) if times else (text, [])
        return Answer(
            text=text,
            in_seconds=told,
            spans=tuple(spans),
            chunks=prepared.chunks[number],
            visual_tokens=prepared.tokens[number],
            prompt_tokens=prepared.lengths[number],
            new_tokens=len(row) if stop is None else stop + 1,
            finished=stop is not None,
        )


@dataclass
class Chat:
    """A conversation, whose media stay in sight.

    Attributes:
        assistant: Who answers.
        messages: What was said.
        media: The images and videos so far.
    """

    assistant: Assistant
    messages: list[dict[str, str]] = field(default_factory=list)
    media: list[Medium] = field(default_factory=list)

    def say(self, text: str, media: Sequence[Medium] = (), **options: Any) -> Answer:
        """Say something, with new images and videos or without, and return the answer.

        Args:
            text: What is said.
            media: New images and videos.
            **options: Keywords of `Assistant.ask`, such as ``stream``.

        Raises:
            InputError: See `Processor.prepare`. The conversation stays as it was.
        """
        asked = [*self.messages, {"role": "user", "content": marked(text, media)}]
        shown = [*self.media, *media]
        answer = self.assistant.ask(Prompt(text=asked, media=shown), **options)
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        self.media = shown
        return answer


def _streamer(tokenizer: Any, stream: Callable[[str], None]) -> Any:
    """Return what transformers calls with each new token: it hands on text as soon as whole words are there."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                stream(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
