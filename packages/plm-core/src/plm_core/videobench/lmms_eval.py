"""A model for lmms-eval that is answered by an `Answerer` of ours.

lmms-eval finds it by the entry point ``lmms_eval.models`` (see `manifest`), or after `register`:

    lmms-eval --model plm_core --model_args model=plm_1b,device=cuda --tasks fgqa_test,rtloc_test

Importing the class needs the package lmms-eval, so it is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plm_core.errors import InputError, NotSupported
from plm_core.utils.arguments import DEVICE
from plm_core.utils.references import resolve
from plm_core.videobench.answering import Answerer, AnswererName, Request, answer_all
from plm_core.videobench.frames import read_frames
from plm_core.videobench.parsing import FRAMES

NAME = "plm_core"
"""The name of the model in lmms-eval."""
MAX_NEW_TOKENS = 256
"""The longest answer of a task that does not say it."""


def manifest() -> Any:
    """Return the manifest by which lmms-eval finds the class.

    Raises:
        MissingDependency: lmms-eval is not installed.
    """
    return resolve("lmms_eval.models.registry_v2:ModelManifest")(
        model_id=NAME, simple_class_path=f"{__name__}.AnswererModel"
    )


def register(name: str = NAME) -> type:
    """Add the class to lmms-eval's registry in this process, and return it.

    Raises:
        MissingDependency: lmms-eval is not installed.
    """
    registered: type = resolve("lmms_eval.api.registry:register_model")(name)(model_class())
    return registered


def model_class() -> type:
    """Return the class that lmms-eval creates, with ``model``, ``device``, ``dtype``, ``frames`` and ``batch_size``.

    Raises:
        MissingDependency: lmms-eval is not installed.
    """
    if "AnswererModel" not in globals():
        globals()["AnswererModel"] = _make_class()
    return globals()["AnswererModel"]


def __getattr__(name: str) -> Any:
    if name == "AnswererModel":
        return model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _make_class() -> type:
    base = resolve("lmms_eval.api.model:lmms")

    class AnswererModel(base):  # type: ignore[misc, valid-type]
        """A model of lmms-eval that hands its questions to an `Answerer`."""

        is_simple = True

        def __init__(
            self,
            model: str | Answerer,
            device: str = DEVICE,
            dtype: str = "fp32",
            frames: int | str = FRAMES,
            batch_size: int | str = 1,
            **ignored: Any,
        ) -> None:
            super().__init__()
            if isinstance(model, str):
                model = AnswererName(name=model, device=device, dtype=dtype).load()
            self.answerer = model
            self.frames, self.batch_size = int(frames), int(batch_size)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Return one answer for each instance, in order."""
            answers: list[str] = []
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                asked = [request_of(instance.args, self.task_dict, self.frames) for instance in batch]
                for instance, answer in zip(batch, answer_all(self.answerer, asked), strict=True):
                    if answer.text is None:
                        raise InputError(f"task {answer.task!r}, document {answer.uid}: {answer.error}")
                    text = answer.text
                    self.cache_hook.add_partial("generate_until", instance.args[:2], text)
                    answers.append(text)
            return answers

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Refuse: an `Answerer` gives texts only."""
            raise NotSupported("model plm_core gives answers and no likelihoods: choose tasks of generate_until")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            """Refuse: an `Answerer` is asked one question at a time."""
            raise NotSupported("model plm_core answers single questions: choose tasks without rounds")

    AnswererModel.__module__, AnswererModel.__qualname__ = __name__, "AnswererModel"
    return AnswererModel


def request_of(arguments: tuple[Any, ...], task_dict: Any, frames: int) -> Request:
    """Return the request for the arguments of one instance of lmms-eval.

    Args:
        arguments: The prompt, the options of generation, the function from a document to its pictures, the number of
            the document, the task and the split.
        task_dict: The documents, by task, split and number.
        frames: Number of frames to take from a video file.

    Raises:
        InputError: A video cannot be read.
        NotSupported: There is no picture, or there are pictures of different sizes.
    """
    prompt, options, to_visual, document, task, split = arguments
    visual = to_visual(task_dict[task][split][document])
    while isinstance(visual, list | tuple) and len(visual) == 1:
        [visual] = visual
    video = Path(visual) if isinstance(visual, str) else None
    if video is not None:
        pixels, numbers = read_frames(video, frames)
    else:
        pixels = _stacked(visual if isinstance(visual, list | tuple) else [visual], task)
        numbers = list(range(len(pixels)))
    return Request(
        frames=pixels,
        prompt=prompt,
        max_new_tokens=int(options.get("max_new_tokens", MAX_NEW_TOKENS)),
        task=task,
        uid=str(document),
        video=video,
        numbers=numbers,
        boxed=video is None,
    )


def _stacked(pictures: Sequence[Any], task: str) -> Tensor:
    from PIL import Image

    if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
        raise NotSupported(f"task {task!r} has no pictures and no video that plm_core can show to a model")
    arrays = [np.array(picture.convert("RGB")) for picture in pictures]
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise NotSupported(f"task {task!r} has pictures of {len(sizes)} sizes at once; frames of one size are allowed")
    if any(not edge for edge in arrays[0].shape):
        raise InputError(f"task {task!r} has an empty picture")
    return torch.from_numpy(np.stack(arrays))
