"""The recipe of ``plm_micro_shapes``, a Perception Language Model of half a million parameters for the world of shapes.

``plm retrain plm_micro_shapes --out DIR`` runs `train`. Training needs ``plm-core[lm,train]`` and pe-encoder.

The paper starts from a language model that can speak. There is none of this size, so the decoder first learns the words
of the world from its texts alone. Then come the paper's three stages: the projector on captions, everything on captions
and questions about pictures, everything on pictures and clips.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from plm_core.lm.assistant import Assistant
from plm_core.lm.builders import perception_lm
from plm_core.lm.chat import ChatEncoder, MediaType
from plm_core.lm.configs import MICRO, MICRO_FRAMES, MICRO_LENGTH, MICRO_SIZE, MICRO_TOKENS, MICRO_TOWER, PAPER
from plm_core.lm.data import Sample, pack
from plm_core.lm.documents import Learner
from plm_core.lm.media import MediaSettings
from plm_core.lm.micro.tokenizer import word_tokenizer
from plm_core.lm.model import PerceptionLM
from plm_core.lm.processor import Processor
from plm_core.lm.prompts import Prompt, VideoClip
from plm_core.models import create_model
from plm_core.shapes.questions import QUESTION_WORDS, ClipQuestions, ImageQuestions, Question, draw_boxes
from plm_core.shapes.questions.texts import text_questions
from plm_core.training import Recipe, fit
from plm_core.training.micro import save_micro
from plm_core.utils.progress import track

NAME = "plm_micro_shapes"
PICTURES, CLIPS = 16_000, 8_000
"""Scenes and clips to train on."""
HELD_OUT = 300
"""Held-out scenes and clips."""
LONG = ("caption", "description", "locate")
"""Kinds of questions whose answers are whole sentences or coordinates. The score of image QA is that of the others."""
TURNS = 6
"""Questions of a conversation. Each time it is other ones, in another order."""
QA = "held-out image QA %"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the training.

    Attributes:
        recipe: The optimisation. A pass is over all samples of the stage.
        parts: The parts that are trained: ``decoder``, ``projector``, ``tower``.
        data: What is seen: ``texts``, ``captions``, ``pictures``, ``clips``.
    """

    recipe: Recipe
    parts: tuple[str, ...]
    data: tuple[str, ...]


_RECIPE = Recipe(
    epochs=1, batch_size=16, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_epochs=0.05, clip_grad=1.0
)
ALL = ("decoder", "projector", "tower")
STAGES: Mapping[str, Stage] = {
    "words": Stage(recipe=_RECIPE, parts=("decoder",), data=("texts",)),
    "stage 1": Stage(recipe=_RECIPE, parts=("projector",), data=("captions",)),
    "stage 2": Stage(recipe=replace(_RECIPE, epochs=4), parts=ALL, data=("captions", "pictures")),
    "stage 3": Stage(recipe=replace(_RECIPE, epochs=4, lr=1e-3), parts=ALL, data=("pictures", "clips")),
}
"""The training. The first stage stands for the language model that the paper starts from."""


# --- data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Talk:
    """Questions about one picture or clip, with their answers.

    Attributes:
        pixels: The picture or the frames, uint8 [n, 3, 48, 48].
        questions: The questions.
        media_type: What the pixels are.
    """

    pixels: Tensor
    questions: tuple[Question, ...]
    media_type: MediaType


@cache
def picture_talks(split: str, count: int) -> list[Talk]:
    """Draw pictures with all their questions."""
    world = ImageQuestions(split, size=MICRO_SIZE, count=count)
    return [
        Talk(_pixels(scene.image[None]), scene.questions, "image")
        for scene in track(world, f"drawing {split} pictures", count)
    ]


@cache
def clip_talks(split: str, count: int) -> list[Talk]:
    """Draw clips with their questions: those about the plain frames, and those about the object in a red box."""
    world = ClipQuestions(split, size=MICRO_SIZE, count=count, frames=MICRO_FRAMES)
    talks = []
    for clip in track(world, f"drawing {split} clips", count):
        for questions in grouped(clip.questions):
            boxes = questions[0].track
            frames = clip.frames if boxes is None else draw_boxes(clip.frames, boxes)
            talks.append(Talk(_pixels(frames), questions, "video"))
    return talks


def grouped(questions: Iterable[Question]) -> list[tuple[Question, ...]]:
    """Return questions by the object that a box points at."""
    groups: dict[Any, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.track].append(question)
    return [tuple(group) for group in groups.values()]


def _pixels(frames: Any) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


class Talks(Dataset[Sample]):
    """Conversations about pictures and clips as samples.

    Args:
        talks: The conversations.
        encoder: What encodes them.
        blind: Whether nobody sees the pixels.
        captions: Whether to take the caption alone, as the first stage does.
    """

    def __init__(
        self, talks: Sequence[Talk], encoder: ChatEncoder, blind: bool = False, captions: bool = False
    ) -> None:
        self.encoder = encoder
        self.blind = blind
        self.captions = captions
        self.talks = [talk for talk in talks if not captions or any(q.kind == "caption" for q in talk.questions)]

    def __len__(self) -> int:
        return len(self.talks)

    def __getitem__(self, index: int) -> Sample:
        talk = self.talks[index]
        questions = [_caption(talk)] if self.captions else chosen(talk.questions)
        turns = [
            turn
            for question in questions
            for turn in ({"from": "human", "value": question.prompt}, {"from": "assistant", "value": question.reply})
        ]
        chunks = 0 if self.blind else len(talk.pixels)
        if self.captions and chunks:
            encoded = self.encoder.warmup(turns, chunks, MICRO_LENGTH)
        else:
            encoded = self.encoder.training(turns, chunks, "text" if self.blind else talk.media_type, MICRO_LENGTH)
        ids, labels, places = (torch.tensor(x) for x in (encoded.input_ids, encoded.labels, encoded.media))
        return Sample(ids, labels, places.long(), normalised(talk.pixels) if chunks else None, talk.media_type)


def chosen(questions: Sequence[Question]) -> list[Question]:
    """Return some questions in random order, by torch's generator. At most one has a long answer, and it comes last.

    A long answer would give those of later questions away.
    """
    order = [questions[index] for index in torch.randperm(len(questions)).tolist()]
    long = [question for question in order if question.kind in LONG][:1]
    return [question for question in order if question.kind not in LONG][: TURNS - len(long)] + long


def _caption(talk: Talk) -> Question:
    return next(question for question in talk.questions if question.kind == "caption")


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels, uint8, as float from -1 to 1."""
    return pixels / 127.5 - 1


# --- training ----------------------------------------------------------------------------------------------------


def processor() -> Processor:
    """Return the processor of the model: its words, and one chunk for an image or a frame."""
    settings = MediaSettings(size=MICRO_SIZE, tokens=MICRO_TOKENS, mode="vanilla", max_frames=MICRO_FRAMES)
    return Processor(word_tokenizer(QUESTION_WORDS), settings, MICRO_LENGTH)


def trained(seed: int = 0, blind: bool = False, stages: Iterable[str] = tuple(STAGES), **options: Any) -> PerceptionLM:
    """Return a trained model in eval mode.

    Args:
        seed: Random seed.
        blind: Whether it sees no pixels, to learn what the questions alone give away.
        stages: The stages that are run, by name.
        **options: Keywords of `plm_core.training.fit`.
    """
    torch.manual_seed(seed)
    model = perception_lm(**MICRO)
    model.vision.tower.load_state_dict(create_model(MICRO_TOWER, pretrained=True).state_dict())
    encoder = processor().encoder
    for name in stages:
        stage = STAGES[name]
        data: Dataset[Sample] = torch.utils.data.ConcatDataset(list(_datasets(stage, encoder, blind)))
        choose(model, stage.parts)
        learner = Learner(model)
        result = fit(learner, data, _loss, stage.recipe, collate=pack, seed=seed, **options)
        learner.load_state_dict(result.state)
    choose(model, ALL)
    return model.eval()


def _loss(learner: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = learner(batch)
    return loss


def choose(model: PerceptionLM, parts: Sequence[str]) -> None:
    """Let the parts of a model be trained, and no others."""
    modules = {"decoder": model.decoder, "projector": model.vision.projector, "tower": model.vision.tower}
    for name, module in modules.items():
        module.requires_grad_(name in parts)


def _datasets(stage: Stage, encoder: ChatEncoder, blind: bool) -> Iterator[Dataset[Sample]]:
    """Yield the data of a stage."""
    pictures = picture_talks("train", PICTURES)
    if "texts" in stage.data:
        facts = Talk(torch.empty(0), text_questions(), "text")
        yield Talks([facts, *pictures], encoder, blind=True)
    if "captions" in stage.data:
        yield Talks(pictures, encoder, blind, captions=True)
    if "pictures" in stage.data:
        yield Talks(pictures, encoder, blind)
    if "clips" in stage.data:
        yield Talks(clip_talks("train", CLIPS), encoder, blind)


def train(out: Path, seed: int = 0) -> Mapping[str, float]:
    """Train the model, and write ``plm_micro_shapes.safetensors``, its card and its processor into ``out``.

    Args:
        out: Folder for the files.
        seed: Random seed.

    Returns:
        The held-out scores, as `evaluate` returns them.

    Raises:
        MissingDependency: An extra or pe-encoder is not installed.
    """
    model = trained(seed)
    scores = evaluate(model)
    recipe = "; ".join(
        f"{name}: {stage.recipe.epochs:g} x {' and '.join(stage.data)}, lr {stage.recipe.lr}, {', '.join(stage.parts)}"
        for name, stage in STAGES.items()
    )
    facts = {
        "Data": f"{PICTURES} pictures and {CLIPS} clips of {MICRO_FRAMES} frames from plm_core.shapes.questions, with "
        f"questions. The scores are on {HELD_OUT} held-out pictures.",
        "Recipe": f"`plm retrain {NAME} --seed {seed}` (module `plm_core.lm.micro.shapes`), AdamW, batch "
        f"{_RECIPE.batch_size}, cosine schedule. {recipe}. The tower starts from `{MICRO_TOWER}`.",
        **{f"Score, {name}": f"{value:.1f}" for name, value in scores.items()},
    }
    what = "trained to answer questions about pictures and clips of the world of shapes"
    kind = f"Perception Language Model ({PAPER})"
    save_micro(model.half(), kind=kind, name=NAME, out=out, task="image-text-to-text", what=what, facts=facts)
    processor().save_pretrained(out / NAME)
    return scores


# --- evaluation --------------------------------------------------------------------------------------------------


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Return the share of questions about held-out pictures whose answers are right word for word, in percent."""
    right = answered(model, picture_talks("heldout", HELD_OUT))
    short = [hit for kind, hits in right.items() if kind not in LONG for hit in hits]
    return {QA: 100 * float(np.mean(short))}


def answered(model: Any, talks: Sequence[Talk], batch_size: int = 64, blind: bool = False) -> dict[str, list[bool]]:
    """Ask a model each question on its own.

    Args:
        model: The model.
        talks: The pictures and clips with their questions.
        batch_size: Questions per batch.
        blind: Whether it sees no pixels.

    Returns:
        Whether each answer is right word for word, by the kind of question.
    """
    assistant = Assistant(model, processor())
    asked = [(talk, question) for talk in talks for question in talk.questions]
    asked.sort(key=lambda pair: (pair[0].media_type, len(pair[1].reply)))
    prompts = [Prompt(text=question.prompt, media=[] if blind else [medium(talk)]) for talk, question in asked]
    right: dict[str, list[bool]] = defaultdict(list)
    answers = assistant.answers(prompts, batch_size, max_new_tokens=64)
    for (_, question), answer in zip(asked, track(answers, "asking", len(asked)), strict=True):
        right[question.kind].append(answer.text == question.reply)
    return right


def medium(talk: Talk) -> Any:
    """Return the picture or the clip of a talk as a medium of a prompt."""
    frames = talk.pixels.permute(0, 2, 3, 1)
    return VideoClip(source=frames) if talk.media_type == "video" else frames[0]
