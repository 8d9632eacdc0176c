"""Judges of answers and captions: a language model at an endpoint or on this machine, or a comparison of words.

The published scores are by Llama-3.3-70B-Instruct. Scores by different judges cannot be compared, so every result names
its judge.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from plm_core.errors import InputError, PlmError
from plm_core.utils.text import first_line
from plm_core.videobench.prompts import Messages, PlainPrompts, Prompts

MAX_TOKENS = 256
"""The longest reply."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait after each answer that the rate limit is reached, before the same question again."""
RATE_LIMIT = 429
REFUSED = (401, 403, 404)
"""Status codes that say that no question will be answered."""


class JudgeError(PlmError):
    """A judge gives no reply to one question. The row is kept, and asked again by the next run."""


@dataclass(frozen=True)
class Case:
    """What a judge compares.

    Attributes:
        kind: Whether it is the answer to a question, or a caption.
        reference: The right answer, or the reference caption.
        prediction: The model's.
        question: The question, if it is an answer.
    """

    kind: Literal["answer", "caption"]
    reference: str
    prediction: str
    question: str = ""


class Judge(Protocol):
    """A judge. Results carry its ``name``, and up to ``parallel`` questions are asked at the same time."""

    name: str
    parallel: int

    def reply(self, case: Case) -> str:
        """Return the reply: JSON with ``pred`` for an answer (yes or no), with ``score`` (0 to 10) for a caption.

        Raises:
            JudgeError: There is none.
        """


class StringJudge:
    """A judge that compares words. It is no language model: use it for tests and for answers from a closed vocabulary.

    An answer is right if it has the same words in the same order. A caption gets 10 times the F-measure of its words
    (how many of the reference's it has, and how many of its own are the reference's). Case, punctuation and articles do
    not count.
    """

    name = "string comparison (no language model)"
    parallel = 1

    def reply(self, case: Case) -> str:
        """Return the reply, which depends on the words only."""
        reference, prediction = _words(case.reference), _words(case.prediction)
        if case.kind == "answer":
            same = reference == prediction
            return json.dumps({"pred": "yes" if same else "no", "score": 5 if same else 0})
        common = (Counter(reference) & Counter(prediction)).total()
        share = 2 * common / max(len(reference) + len(prediction), 1)
        return json.dumps({"score": round(10 * share, 1), "explanation": f"{common} words in common"})


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]


class EndpointJudge:
    """A language model behind an endpoint that speaks OpenAI's chat completions.

    Args:
        base_url: The address, such as ``http://localhost:8000/v1``.
        model: The name of the model there.
        api_key: The key; None for an endpoint that needs none. The token of the Hugging Face Hub is never sent.
        timeout: Seconds to wait for a reply.
        parallel: Questions at the same time.
        prompts: What the judge is asked; by default `PlainPrompts`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        parallel: int = 8,
        prompts: Prompts | None = None,
    ) -> None:
        from huggingface_hub import InferenceClient

        if not re.match(r"https?://", base_url):
            raise InputError(
                f"base_url {base_url!r} is not allowed: an address that begins with http:// or https:// is"
            )
        # without a key, the client would send the user's token of the Hub to this address
        self._client = InferenceClient(base_url=base_url, api_key=api_key or "none", timeout=timeout)
        self._model = model
        self._prompts = prompts or PlainPrompts()
        self.name = f"{model} at an endpoint, {self._prompts.name} prompts"
        self.parallel = parallel
        self.sleep: Callable[[float], None] = time.sleep

    def reply(self, case: Case) -> str:
        """Ask the endpoint. Only the answer that a rate limit is reached is followed by another try.

        Raises:
            JudgeError: There is no reply in time, or the endpoint fails.
            InputError: The endpoint refuses the key or does not know the model, so no question would be answered.
        """
        messages = _conversation(self._prompts, case)
        for pause in PAUSES:
            reply = self._ask(messages)
            if reply is not None:
                return reply
            self.sleep(pause)
        reply = self._ask(messages)
        if reply is None:
            raise JudgeError(f"the judge's rate limit is still reached after {len(PAUSES)} pauses")
        return reply

    def _ask(self, messages: Messages) -> str | None:
        """Return one reply, or None if the rate limit is reached."""
        from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled

        from plm_core.utils.network import client_errors, masked

        try:
            output = self._client.chat_completion(messages, model=self._model, max_tokens=MAX_TOKENS, temperature=0.0)
            content = output.choices[0].message.content
        except OfflineModeIsEnabled as e:
            raise InputError("the judge cannot be reached while HF_HUB_OFFLINE is set") from e
        except HfHubHTTPError as e:
            status = e.response.status_code
            if status == RATE_LIMIT:
                return None
            kind = InputError if status in REFUSED else JudgeError
            raise kind(f"the judge answers with status {status} ({masked(first_line(e))})") from e
        except (InferenceTimeoutError, *client_errors()) as e:
            raise JudgeError(f"the judge does not answer ({masked(first_line(e))})") from e
        except (ValueError, TypeError, LookupError, AttributeError) as e:  # an answer of another form
            raise JudgeError(f"the judge's answer is no chat completion ({masked(first_line(e))})") from e
        return content or ""


class LocalJudge:
    """A language model of transformers on this machine.

    Args:
        model: Its name on the Hub or its folder, or a pipeline for text generation that takes conversations.
        device: The device.
        prompts: What the judge is asked; by default `PlainPrompts`.

    Raises:
        MissingDependency: transformers is not installed.
        InputError: The model cannot be loaded.
    """

    parallel = 1

    def __init__(self, model: str | Callable[..., Any], device: str = "auto", prompts: Prompts | None = None) -> None:
        self._prompts = prompts or PlainPrompts()
        self._pipeline = _pipeline(model, device) if isinstance(model, str) else model
        name = model if isinstance(model, str) else "a pipeline"
        self.name = f"{name} on this machine, {self._prompts.name} prompts"
        self._lock = threading.Lock()

    def reply(self, case: Case) -> str:
        """Let the model write its reply, greedily.

        Raises:
            JudgeError: It fails, for instance for lack of memory.
        """
        try:
            with self._lock:
                output = self._pipeline(
                    _conversation(self._prompts, case),
                    max_new_tokens=MAX_TOKENS,
                    do_sample=False,
                    return_full_text=False,
                )
            return str(output[0]["generated_text"])
        except (RuntimeError, ValueError, LookupError, TypeError) as e:
            raise JudgeError(f"the judge fails ({first_line(e)})") from e


def _pipeline(model: str, device: str) -> Callable[..., Any]:
    from plm_core.utils.devices import pick_device
    from plm_core.utils.requirements import check_needs

    check_needs("a judge on this machine", ["transformers"])
    import transformers

    try:
        return transformers.pipeline("text-generation", model=model, device=pick_device(device))
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise InputError(f"judge {model!r} cannot be loaded: {first_line(e)}") from e


def _conversation(prompts: Prompts, case: Case) -> Messages:
    if case.kind == "answer":
        return prompts.judge_answer(case.question, case.reference, case.prediction)
    return prompts.judge_caption(case.reference, case.prediction)
