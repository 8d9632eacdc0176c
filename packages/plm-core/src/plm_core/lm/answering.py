"""A model as PLM-VideoBench asks it: an `Assistant` behind the benchmark's contract for answerers.

The benchmark lies above the language model, so nothing of it is imported here. A request is anything with its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from plm_core.lm.assistant import Assistant
from plm_core.lm.pretrained import DTYPES
from plm_core.lm.prompts import Prompt, VideoClip
from plm_core.utils.arguments import DEVICE
from plm_core.utils.ranges import check_choice


class AssistantAnswerer:
    """An assistant that answers the benchmark's requests.

    Args:
        assistant: The assistant.
        name: The name that results carry.
    """

    def __init__(self, assistant: Assistant, name: str) -> None:
        self.assistant = assistant
        self.name = name

    def answer(self, requests: Sequence[Any]) -> list[str]:
        """Return the answers to requests, each without one full stop at its end, as the original's are scored.

        Raises:
            InputError: A request is longer than the model takes.
        """
        texts: list[str] = []
        for longest, some in groupby(requests, key=lambda request: request.max_new_tokens):
            group = list(some)
            prompts = [Prompt(text=one.prompt, media=[VideoClip(source=one.frames)]) for one in group]
            answers = self.assistant.answers(prompts, batch_size=len(prompts), max_new_tokens=longest)
            texts += [answer.text.removesuffix(".") for answer in answers]
        return texts


def load_answerer(name: str, *, device: str = DEVICE, dtype: str = "fp32") -> AssistantAnswerer:
    """Load a model for the benchmark.

    Args:
        name: See `plm_core.lm.from_pretrained`.
        device: See `Assistant.from_pretrained`.
        dtype: Precision of the weights: "fp32" or "bf16".

    Raises:
        WeightsError: See `Assistant.from_pretrained`.
        InputError: See `Assistant.from_pretrained`.
    """
    check_choice("dtype", dtype, tuple(DTYPES))
    return AssistantAnswerer(Assistant.from_pretrained(name, DTYPES[dtype], device), name)
