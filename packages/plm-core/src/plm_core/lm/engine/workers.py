"""Who writes the texts: captioners, which see images and clips, and writers, which see texts alone.

Both are plain functions, so any model can be one:

    def captioner(items, prompt): ...     # a text for each image or clip
    def writer(prompts): ...              # a text for each prompt

Here are our own models (`LocalModel`) and those of transformers (`PipelineModel`); `plm_core.lm.engine.endpoint` has
models behind an address. Each has the methods ``caption`` and ``write``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from plm_core.errors import InputError, PlmError
from plm_core.utils.arguments import DEVICE
from plm_core.utils.text import describe, first_line

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from plm_core.lm.assistant import Assistant

MAX_NEW_TOKENS = 1024
"""The longest text. Descriptions in detail and lists of questions are longer than the answers of a chat."""


class WorkerError(PlmError):
    """A captioner or writer gives no text for one item. The item is kept, and tried again by the next run."""


Visual: TypeAlias = "Image.Image | Tensor"
"""An image as PIL has it, or the frames of a clip, uint8 [T, H, W, 3]."""
Text: TypeAlias = str | WorkerError
"""A text, or in its place why there is none, which spares the other items of a call."""
Captioner: TypeAlias = Callable[[Sequence[Visual], str], Sequence[Text]]
"""A function (items, prompt) that returns a text for each item."""
Writer: TypeAlias = Callable[[Sequence[str]], Sequence[Text]]
"""A function (prompts) that returns a text for each prompt."""


def name_of(worker: Captioner | Writer) -> str:
    """Return the name of a captioner or writer for the rows: ``name`` of it or of its object, or its own."""
    for owner in (worker, getattr(worker, "__self__", None)):
        name = getattr(owner, "name", None)
        if isinstance(name, str):
            return name
    return str(getattr(worker, "__qualname__", type(worker).__qualname__))


def texts_of(worker: Callable[..., Sequence[Text]], items: Sequence[Any], *rest: Any) -> list[Text]:
    """Call a captioner or writer, and return a text or an error for each item.

    Args:
        worker: The captioner or writer.
        items: The items or prompts.
        *rest: The other arguments.

    Raises:
        InputError: It does not give one text for each item.
        PlmError: It raises any of our errors but a `WorkerError`, so no item would get a text.
    """
    if not items:
        return []
    try:
        texts: Any = worker(items, *rest)
    except WorkerError as e:
        return [e] * len(items)
    except PlmError:  # such as a model that there is not
        raise
    except Exception as e:  # the function of a user may raise anything, such as a lack of memory
        return [WorkerError(f"{name_of(worker)} fails: {describe(e)}")] * len(items)
    if not isinstance(texts, list | tuple) or len(texts) != len(items):
        count = len(texts) if isinstance(texts, list | tuple) else type(texts).__name__
        raise InputError(f"{name_of(worker)} gives {count} texts for {len(items)} items")
    for text in texts:
        if not isinstance(text, str | WorkerError):
            raise InputError(f"{name_of(worker)} gives {type(text).__name__} in the place of a text")
    return list(texts)


class LocalModel:
    """One of our language models, as captioner of images and clips, and as writer.

    Args:
        model: What `plm_core.lm.Assistant.from_pretrained` takes, which is loaded when it is first used; or an
            assistant, which no other process can be sent.
        device: The device of one that is loaded.
        batch_size: Prompts per batch.
        settings: Changes of the `plm_core.lm.media.MediaSettings` of one that is loaded, such as ``max_tokens``.
        **generation: Keywords of transformers' ``generate``; see `plm_core.lm.Assistant.ask`.
    """

    def __init__(
        self,
        model: str | Assistant,
        *,
        device: str = DEVICE,
        batch_size: int = 8,
        settings: dict[str, Any] | None = None,
        **generation: Any,
    ) -> None:
        self.name = model if isinstance(model, str) else "an assistant in memory"
        self.device = device
        self.batch_size = batch_size
        self.settings = settings or {}
        self.generation = generation
        self._assistant: Assistant | None = None if isinstance(model, str) else model
        self._loads = isinstance(model, str)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which loads the model for itself.

        Raises:
            InputError: The model has no name.
        """
        if not self._loads:
            raise InputError("the captioner is an assistant in memory; name a model, which each process loads")
        return {**self.__dict__, "_assistant": None}

    @property
    def assistant(self) -> Assistant:
        """The assistant, which the first call loads."""
        if self._assistant is None:
            from plm_core.lm.assistant import Assistant

            self._assistant = Assistant.from_pretrained(self.name, device=self.device, **self.settings)
        return self._assistant

    def caption(self, items: Sequence[Visual], prompt: str) -> list[str]:
        """Ask about each image and clip. A clip is thinned out to the frames that the model takes.

        Raises:
            InputError: See `plm_core.lm.Assistant.ask`.
        """
        return self._asked([(prompt, [self._medium(item)]) for item in items])

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Answer prompts without media.

        Raises:
            InputError: See `plm_core.lm.Assistant.ask`.
        """
        return self._asked([(prompt, []) for prompt in prompts])

    def _asked(self, questions: Sequence[tuple[str, list[Any]]]) -> list[str]:
        from plm_core.lm.prompts import Prompt

        prompts = [Prompt(text=text, media=media) for text, media in questions]
        answers = self.assistant.answers(prompts, batch_size=self.batch_size, **self.generation)
        return [answer.text for answer in answers]

    def _medium(self, item: Visual) -> Any:
        from PIL import Image

        from plm_core.lm.prompts import VideoClip

        if isinstance(item, Image.Image):
            return item
        return VideoClip(source=evenly(item, self.assistant.processor.settings.frame_limit))


class PipelineModel:
    """A model of transformers, as captioner (task ``image-text-to-text``) or as writer (``text-generation``).

    Args:
        model: Its name on the Hub or its folder, which is loaded when it is first used; or a pipeline, which no other
            process can be sent.
        task: The task of one that is loaded.
        device: The device of one that is loaded.
        max_new_tokens: The longest text.
    """

    def __init__(
        self,
        model: str | Callable[..., Any],
        task: str = "image-text-to-text",
        *,
        device: str = DEVICE,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.name = model if isinstance(model, str) else _pipeline_name(model)
        self.task = task
        self.device = device
        self.max_new_tokens = max_new_tokens
        self._pipeline: Callable[..., Any] | None = None if isinstance(model, str) else model
        self._loads = isinstance(model, str)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which loads the model for itself.

        Raises:
            InputError: The model has no name.
        """
        if not self._loads:
            raise InputError("the model is a pipeline in memory; name a model, which each process loads")
        return {**self.__dict__, "_pipeline": None}

    @property
    def pipeline(self) -> Callable[..., Any]:
        """The pipeline, which the first call loads.

        Raises:
            MissingDependency: transformers is not installed.
            InputError: The model cannot be loaded.
        """
        if self._pipeline is None:
            from plm_core.utils.devices import pick_device
            from plm_core.utils.requirements import check_needs

            check_needs(f"model {self.name!r}", ["transformers"])
            import transformers

            try:
                # the name of a task is one of many literals to a type checker
                load: Any = transformers.pipeline
                self._pipeline = load(self.task, model=self.name, device=pick_device(self.device))
            except (OSError, ValueError, RuntimeError, KeyError, TypeError) as e:  # TypeError: no processor
                raise InputError(f"model {self.name!r} cannot be loaded: {first_line(e)}") from e
        pipeline: Callable[..., Any] = self._pipeline
        return pipeline

    def caption(self, items: Sequence[Visual], prompt: str) -> list[Text]:
        """Ask about each image and clip. The frames of a clip are images of one question."""
        options = {"return_full_text": False, "generate_kwargs": self._generation()}
        return [self._text(self._question(pictures_of(item), prompt), options) for item in items]

    def write(self, prompts: Sequence[str]) -> list[Text]:
        """Answer prompts, as conversations if the model knows them."""
        options = {"return_full_text": False, **self._generation()}
        chats = getattr(getattr(self.pipeline, "tokenizer", None), "chat_template", None) is not None
        return [
            self._text({"text_inputs": [{"role": "user", "content": prompt}] if chats else prompt}, options)
            for prompt in prompts
        ]

    def _generation(self) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False}

    def _question(self, pictures: Sequence[Any], prompt: str) -> dict[str, Any]:
        if getattr(getattr(self.pipeline, "processor", None), "chat_template", None) is None:
            if len(pictures) > 1:
                raise InputError(f"model {self.name!r} has no chat template, without which it takes one image alone")
            return {"images": pictures[0], "text": prompt}
        content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": prompt}]
        return {"text": [{"role": "user", "content": content}]}

    def _text(self, question: dict[str, Any], options: dict[str, Any]) -> Text:
        try:
            output = self.pipeline(**question, **options)
            return str(output[0]["generated_text"])
        except (RuntimeError, ValueError, LookupError, TypeError) as e:
            return WorkerError(f"{self.name} fails: {describe(e)}")


def _pipeline_name(pipeline: Any) -> str:
    return str(getattr(getattr(pipeline, "model", None), "name_or_path", "") or "a pipeline in memory")


def pictures_of(item: Visual) -> list[Image.Image]:
    """Return an image, or the frames of a clip as images."""
    from PIL import Image

    return [item] if isinstance(item, Image.Image) else [Image.fromarray(frame.numpy()) for frame in item]


def evenly(frames: Tensor, count: int) -> Tensor:
    """Return at most ``count`` frames of a clip, evenly, with both ends."""
    if len(frames) <= count:
        return frames
    return frames[[round(i * (len(frames) - 1) / max(count - 1, 1)) for i in range(count)]]
