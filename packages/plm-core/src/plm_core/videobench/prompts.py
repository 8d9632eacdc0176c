"""What models and judges are asked: in plain words of our own, or literally as lmms-eval asks it.

Published scores depend on the literal words, which are in the task files of the package ``lmms-eval``. They are read
from there if it is installed. Results name the prompts that made them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any, Protocol

from plm_core.errors import MissingDependency, NotSupported
from plm_core.lm.shapes_data import ask_row
from plm_core.utils.ranges import check_choice
from plm_core.utils.text import describe
from plm_core.videobench.parsing import lettered, rescale

Row = Mapping[str, Any]
Messages = list[dict[str, str]]
"""A conversation: messages with ``role`` and ``content``."""

PROMPTS = ("plain", "lmms-eval", "shapes")
LMMS_TASKS = "lmms_eval.tasks.plm_videobench"


class Prompts(Protocol):
    """What a model and a judge are asked. ``name`` is written into results."""

    name: str

    def question(self, task: str, row: Row, frames: int) -> str:
        """Return what a model is asked about a video of which it sees ``frames`` frames."""

    def judge_answer(self, question: str, answer: str, prediction: str) -> Messages:
        """Return what a judge is asked about an answer. It replies ``{"pred": "yes" or "no", "score": 0 to 5}``."""

    def judge_caption(self, reference: str, prediction: str) -> Messages:
        """Return what a judge is asked about a caption. It replies ``{"score": 0 to 10, "explanation": "..."}``."""


def load_prompts(name: str) -> Prompts:
    """Return prompts by name: ``plain``, ``lmms-eval``, or ``shapes`` for the miniature in the world of shapes.

    Raises:
        InputError: There are no such prompts.
        MissingDependency: lmms-eval is not installed, or something that its task files import.
    """
    check_choice("prompts", name, PROMPTS)
    kinds: dict[str, type[Prompts]] = {"plain": PlainPrompts, "lmms-eval": LmmsEvalPrompts, "shapes": ShapesPrompts}
    return kinds[name]()


class PlainPrompts:
    """Prompts in words of our own."""

    name = "plain"

    def question(self, task: str, row: Row, frames: int) -> str:
        """Return what a model is asked."""
        last = frames - 1
        if task == "fgqa":
            options = "\n".join(f"({letter}) {text}" for letter, text in lettered(row["options"]))
            return f"Question: {row['question']}\nOptions:\n{options}\nAnswer with the letter of the right option."
        if task == "sgqa":
            return f"{row['question']}\nAnswer in one or two sentences from what the video shows."
        if task == "rcap":
            start, end = (rescale(row[key], row["total_frames"], frames) for key in ("start_frame", "end_frame"))
            return (
                f"A red box marks one subject in this video, whose frames are numbered from 0 to {last}. Describe in "
                f"detail what the subject does from frame {start} to frame {end}."
            )
        if task == "rtloc":
            return (
                f"A red box marks one subject in this video, whose frames are numbered from 0 to {last}. In which "
                f"frames does this happen: {row['caption']}\nAnswer with the first and the last frame as [start, end]."
            )
        return (
            f"A red box marks one subject in this video, whose frames are numbered from 0 to {last}. List everything "
            "that the subject does, one line for each action, as [start, end]: description"
        )

    def judge_answer(self, question: str, answer: str, prediction: str) -> Messages:
        """Return what a judge is asked about an answer."""
        system = (
            "You grade answers to questions about videos. You are given a question, the right answer and the answer "
            "of a model. Decide whether the model's answer means the same as the right answer. Other words and more "
            "detail are fine, a contradiction is not."
        )
        user = (
            f"Question: {question}\nRight answer: {answer}\nAnswer of the model: {prediction}\n\nReply with one JSON "
            'object and nothing else: {"pred": "yes" or "no", "score": a whole number from 0 to 5}'
        )
        return _messages(system, user)

    def judge_caption(self, reference: str, prediction: str) -> Messages:
        """Return what a judge is asked about a caption."""
        system = (
            "You grade descriptions of what somebody or something does in a video. You are given a reference and the "
            "description of a model. Judge how much of the reference the description covers. Do not subtract points "
            "for details that the reference lacks."
        )
        user = (
            f"Reference: {reference}\nDescription of the model: {prediction}\n\nReply with one JSON object and nothing "
            'else: {"score": a whole number from 0 to 10, "explanation": "one sentence"}'
        )
        return _messages(system, user)


class ShapesPrompts(PlainPrompts):
    """Prompts in the words of the world of shapes, which a model of that world is trained on."""

    name = "shapes"

    def question(self, task: str, row: Row, frames: int) -> str:
        """Return what a model is asked."""
        return ask_row(task, row, frames)


class LmmsEvalPrompts:
    """The prompts in the task files of the installed package lmms-eval.

    Raises:
        MissingDependency: It is not installed. On a call: something that its task files import is not.
    """

    name = "lmms-eval"

    def __init__(self) -> None:
        spec = util.find_spec("lmms_eval")
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependency("prompts 'lmms-eval' are read from the package lmms-eval, which is not installed")
        self._folder = Path(spec.submodule_search_locations[0], "tasks", "plm_videobench")
        self._templates: dict[str, str] = {}

    def question(self, task: str, row: Row, frames: int) -> str:
        """Return what a model is asked."""
        template = self._template(task)
        if task == "fgqa":
            return _call("fgqa.fgqa_utils", "plm_fgqa_doc_to_text", row, {"prompt": template})
        last = frames - 1
        if task == "sgqa":
            values = {"question": row["question"], "answer": "{answer}"}  # it stands there literally
        elif task == "rcap":
            start, end = (rescale(row[key], row["total_frames"], frames) for key in ("start_frame", "end_frame"))
            # the window is in the frames that the model sees, and yet the number of frames is the video's own
            values = {"start_frame": start, "end_frame": end, "total_frames": row["total_frames"]}
        elif task == "rtloc":
            values = {"caption": row["caption"], "min_frame_idx": 0, "max_frame_idx": last, "num_frames": frames}
        else:
            values = {"start_frame": 0, "end_frame": last, "total_frames": frames}
        return template.format(**values)

    def judge_answer(self, question: str, answer: str, prediction: str) -> Messages:
        """Return what a judge is asked about an answer."""
        return _call("eval_utils", "get_sgqa_judge_prompt", question=question, pred=prediction, target=answer)

    def judge_caption(self, reference: str, prediction: str) -> Messages:
        """Return what a judge is asked about a caption."""
        return _call("eval_utils", "get_caption_judge_prompt", reference, prediction)

    def _template(self, task: str) -> str:
        if task not in self._templates:
            self._templates[task] = _read_template(self._folder / task / f"{task}_test.yaml")
        return self._templates[task]


def _read_template(file: Path) -> str:
    try:
        import yaml
    except ModuleNotFoundError as e:
        raise MissingDependency("the task files of lmms-eval need PyYAML: install plm-core[lm]") from e

    class Loader(yaml.SafeLoader):
        """A loader that reads the tags for functions as nothing."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), Loader)
        return str(settings["lmms_eval_specific_kwargs"]["default"]["prompt"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as e:
        raise NotSupported(f"lmms-eval has no prompt in {file} ({describe(e)}): use prompts 'plain'") from e


def _call(module: str, function: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of lmms-eval's task files."""
    try:
        return getattr(importlib.import_module(f"{LMMS_TASKS}.{module}"), function)(*args, **kwargs)
    except ImportError as e:
        raise MissingDependency(f"prompts 'lmms-eval' need all that lmms-eval requires: {describe(e)}") from e
    except AttributeError as e:
        raise NotSupported(f"this version of lmms-eval has no {module}.{function}: use prompts 'plain'") from e


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
