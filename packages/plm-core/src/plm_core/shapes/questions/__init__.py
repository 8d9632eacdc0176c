"""Questions about the pictures and clips of the shapes world, each with one right answer.

The questions about clips are the five tasks of PLM-VideoBench in miniature. All words are in `QUESTION_WORDS`, and the
answers are balanced, so that a model that sees no picture gains little (`majority_scores`).

    >>> from plm_core.shapes.questions import ImageQuestions
    >>> for question in ImageQuestions("heldout", size=48)[3].questions[2:5]:
    ...     print(question.prompt, question.reply)
    is there an orange cross? yes
    is the green square left of the orange cross? no
    how many shapes are green? 1

- ``datasets``: `ImageQuestions` and `ClipQuestions`, their items, and the score of guessing.
- ``asking``: `Question`, and what all questions share.
- ``pictures``, ``clips``, ``texts``: the kinds of questions.
- ``stories``: the plan of a clip whose objects have several motions.
- ``marking``: red boxes that point at an object of a clip.
- ``vocabulary``: the closed vocabulary, without NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.shapes.questions.asking import Question
    from plm_core.shapes.questions.clips import CLIP_KINDS
    from plm_core.shapes.questions.datasets import (
        AskedClip,
        AskedScene,
        ClipQuestions,
        ImageQuestions,
        majority_scores,
    )
    from plm_core.shapes.questions.marking import draw_boxes
    from plm_core.shapes.questions.pictures import PICTURE_KINDS
    from plm_core.shapes.questions.texts import text_questions
    from plm_core.shapes.questions.vocabulary import QUESTION_WORDS, join_words, split_words

_MODULES = {
    "asking": ("Question",),
    "clips": ("CLIP_KINDS",),
    "datasets": ("AskedClip", "AskedScene", "ClipQuestions", "ImageQuestions", "majority_scores"),
    "marking": ("draw_boxes",),
    "pictures": ("PICTURE_KINDS",),
    "texts": ("text_questions",),
    "vocabulary": ("QUESTION_WORDS", "join_words", "split_words"),
}

__all__ = [
    "CLIP_KINDS",
    "PICTURE_KINDS",
    "QUESTION_WORDS",
    "AskedClip",
    "AskedScene",
    "ClipQuestions",
    "ImageQuestions",
    "Question",
    "draw_boxes",
    "join_words",
    "majority_scores",
    "split_words",
    "text_questions",
]

__getattr__, __dir__ = attributes(
    __name__, "plm-core", {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
)
