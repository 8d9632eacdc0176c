"""The recipes ``lm-stage1``, ``lm-stage2``, ``lm-stage3`` and ``lm-finetune``: from conversations to a model folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from plm_core.errors import InputError
from plm_core.lm.chat import ChatEncoder
from plm_core.lm.data import ConversationSamples
from plm_core.lm.data.samples import IndexedRows
from plm_core.lm.documents import Learner
from plm_core.lm.media import MediaSettings
from plm_core.lm.model import PerceptionLM
from plm_core.lm.processor import Processor
from plm_core.lm.recipes.scoring import score
from plm_core.lm.recipes.splits import Split, split_rows
from plm_core.lm.recipes.starting import create, find_tokenizer, keywords_of, shaped, start_in_words
from plm_core.lm.recipes.tables import StageConfig
from plm_core.lm.recipes.tokenizers import tokenizer_of
from plm_core.lm.recipes.training import chunk_size, train_lm
from plm_core.models import input_of
from plm_core.runs import Job, Trained, begin

BAD_ROWS = "bad_rows.log"
"""The file in the folder of a training that lists the rows that were left out."""
READ = 10_000
"""The most rows whose words a tokenizer learns."""


def run(job: Job) -> Trained | None:
    """Train a language model that sees on conversations, and score it on held-out ones."""
    split = split_rows(job.data, job.config, job.seed)
    begin(job, split.found)
    config: StageConfig = replace(job, config=split.config).config_for(len(split.train))
    tokenizer = _tokenizer(job, config, split)
    made = shaped(job, config, ChatEncoder(tokenizer, 1, system="").image_id)
    model = create(made, config)
    _check_vocabulary(model, tokenizer)
    settings = media_settings(model, config)
    reader = Reader(job, config, settings, tokenizer)
    train = reader.samples(split.train)
    held_out = None if split.held_out is None else reader.samples(_first(split.held_out, config.max_scored))

    def judge(learner: nn.Module) -> dict[str, float]:
        if held_out is None:
            return {}
        turns = config.mode == "chat"
        return score(learner, held_out, held_out.encoder, turns=turns, num_workers=job.num_workers)

    options = {**job.options, "evaluate": judge if held_out else None, "evaluate_every": 1 / split.epochs}
    result = train_lm(model, train, config, **options)
    if not result.main:
        return None
    trained: Any = made.rebuild(result.state)
    scores = judge(Learner(trained).eval()) or {"training loss": result.history[-1]["loss"]}
    return Trained(
        model=trained,
        scores=scores,
        history=result.history,
        data=split.found,
        notes=reader.notes(),
        extras={"tower.safetensors": trained.vision.tower} if config.keep_tower else {},
        about={"media": asdict(settings), "max_length": config.max_length},
        start=start_in_words(job, config),
        beside=Processor(tokenizer, settings, config.max_length).save_pretrained,
    )


class Reader:
    """Makes the datasets of a job, in which some rows may be left out that cannot be used.

    Args:
        job: The job.
        config: The settings.
        settings: How images and videos become chunks.
        tokenizer: The tokenizer.
    """

    def __init__(self, job: Job, config: StageConfig, settings: MediaSettings, tokenizer: Any) -> None:
        self.job = job
        self.config = config
        self.settings = settings
        self.tokenizer = tokenizer
        self.report = Path(job.out) / BAD_ROWS

    def samples(self, rows: IndexedRows) -> ConversationSamples:
        """Return rows as samples."""
        return ConversationSamples(
            rows,
            self.tokenizer,
            self.settings,
            max_length=self.config.max_length,
            mode=self.config.mode,
            max_bad=len(rows) if self.job.skip_unreadable else self.config.max_bad,
            report=self.report,
            seed=self.job.seed,
        )

    def notes(self) -> dict[str, str]:
        """Return the note about rows that were left out, if there were any."""
        if not self.report.is_file():
            return {}
        count = len(self.report.read_text(encoding="utf-8").splitlines())
        return {"Left out": f"{count} rows, which {BAD_ROWS} lists"}


class First:
    """The first rows of some.

    Args:
        rows: The rows.
        count: How many.
    """

    def __init__(self, rows: IndexedRows, count: int) -> None:
        self.rows = rows
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def place(self, index: int) -> str:
        """Return where a row is, for messages."""
        return self.rows.place(index)


def _first(rows: IndexedRows, count: int) -> IndexedRows:
    return First(rows, min(count, len(rows)))


def media_settings(model: PerceptionLM, config: StageConfig) -> MediaSettings:
    """Return how images and videos become chunks for a model."""
    size, spec = chunk_size(model), input_of(model)
    mean, std = ((a, b, c) for a, b, c in (spec.mean, spec.std))
    return MediaSettings(
        size=size,
        tokens=model.vision.tokens_of(size),
        mode=config.tiling,
        max_tiles=config.max_tiles,
        max_frames=config.max_frames,
        max_tokens=config.max_tokens,
        mean=mean,
        std=std,
    )


def _tokenizer(job: Job, config: StageConfig, split: Split) -> Any:
    """Return the tokenizer of a training. For a trial with random weights and without one, words of the data are it."""
    keywords = keywords_of(job)
    tokenizer = find_tokenizer(job, config)
    if tokenizer is not None:
        return tokenizer
    if job.pretrained or job.weights is not None:
        raise InputError(
            f"model {job.model!r} has no tokenizer beside it: name a folder or a repository (--set tokenizer=...)"
        )
    job.notes.append("tokenizer: one of the words in the data, since none is named (--set tokenizer=...)")
    return tokenizer_of(_texts(split.train), keywords["text_config"]["vocab_size"])


def _texts(rows: IndexedRows) -> Iterator[str]:
    for index in islice(range(len(rows)), READ):
        for turn in rows[index].conversations:
            yield str(turn["value"])


def _check_vocabulary(model: PerceptionLM, tokenizer: Any) -> None:
    known = model.decoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, and the decoder knows {known}; name the tokenizer that "
            "belongs to the decoder (--set tokenizer=...)"
        )
