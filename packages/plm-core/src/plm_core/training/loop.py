"""One way to train any model: a recipe, a loss and data, driven by transformers' Trainer."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from plm_core.errors import FileError, InputError, MissingDependency
from plm_core.training.recipe import Loss, Recipe
from plm_core.training.seeding import Collate, Seeded
from plm_core.utils.progress import interactive

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves.

    Attributes:
        state: The whole state dict on the CPU, also where the model was sharded; empty but on the main process.
        history: Logged values by step.
        main: Whether this process is the one that should write results.
    """

    state: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    main: bool = True


def fit(
    model: nn.Module,
    data: Dataset[Any],
    loss: Loss,
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    save_steps: int = 1000,
    seed: int = 0,
    collate: Callable[[list[Any]], Any] = default_collate,
    num_workers: int = 0,
    per_device_batch_size: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    max_steps: int | None = None,
    log_steps: int = 50,
    fsdp: bool = False,
    callbacks: Sequence[Any] = (),
) -> TrainResult:
    """Train a model in place.

    Args:
        model: What to train. Its ``no_weight_decay()`` and ``group_matcher()`` are honoured where it has them.
        data: Map-style dataset. What it draws from the random generators of Python, NumPy
            and torch is seeded by seed, epoch and index.
        loss: ``loss(model, batch)``, a scalar or a scalar and named parts to log. It must call the model that it is
            given, which may be wrapped.
        recipe: How to optimise.
        out: Folder for checkpoints, each ``save_steps`` and at the end, the last two kept; None for none.
        resume: Go on from the newest complete checkpoint in ``out``; start anew where there is none.
        save_steps: Optimiser steps between checkpoints.
        seed: Of everything random.
        collate: Makes a batch of samples.
        num_workers: Processes that load data.
        per_device_batch_size: Samples that a device takes at once. Where that is fewer than its share of
            ``recipe.batch_size``, gradients are accumulated.
        precision: "bf16" and "fp16" train under autocast.
        max_steps: Stop after this many optimiser steps (the schedule stays that of the whole training).
        log_steps: Steps between logged values.
        fsdp: Shard parameters over the processes (FSDP) instead of copying them (DDP).
        callbacks: Of transformers (TrainerCallback).

    Raises:
        InputError: The batch does not divide over the processes, or is larger than the data; checkpoints in ``out``
            without ``resume``; samples with NaN or infinite values, or a loss that is, with the samples named.
        FileError: The folder cannot be made.
        MissingDependency: The extra plm-core[train] is not installed.
    """
    try:
        from accelerate.utils import extract_model_from_parallel
        from transformers import TrainingArguments
    except ModuleNotFoundError as e:
        raise MissingDependency("training needs transformers and accelerate: install plm-core[train]") from e
    from plm_core.training.trainer import RecipeTrainer

    with _folder(out, resume) as folder:
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=recipe.epochs / recipe.aug_repeats,
            learning_rate=recipe.lr,
            max_grad_norm=recipe.clip_grad or 0.0,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            seed=seed,
            data_seed=seed,
            save_strategy="no" if out is None else "steps",
            save_steps=save_steps,
            save_total_limit=2,
            logging_steps=log_steps,
            report_to=[],
            disable_tqdm=not interactive(),
            dataloader_num_workers=num_workers,
            dataloader_drop_last=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            fsdp=fsdp or None,
            fsdp_config=_units(model) if fsdp else None,
            ddp_find_unused_parameters=False,
            use_cpu=not torch.accelerator.is_available(),
            **_shares(recipe, per_device_batch_size),
        )
        # several GPUs without torchrun would become nn.DataParallel, with a batch as many times larger
        arguments._n_gpu = min(arguments.n_gpu, 1)
        samples = Seeded(data, seed, recipe.aug_repeats)
        if len(samples) * recipe.aug_repeats < recipe.batch_size:
            raise InputError(f"batch_size {recipe.batch_size} is larger than the data, {len(samples)} samples")
        trainer = RecipeTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=Collate(collate),
            callbacks=[*callbacks],
            loss=loss,
            recipe=recipe,
            max_steps=max_steps,
        )
        # the Trainer gave all processes one seed, for equal weights; from here on their draws should differ
        torch.manual_seed(seed + arguments.process_index)
        np.random.seed(seed + arguments.process_index)
        newest = newest_checkpoint(folder) if resume else None
        with _one_line():
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        # mixed precision left its wrapper around the caller's model.forward
        extract_model_from_parallel(trainer.model_wrapped, keep_fp32_wrapper=False)
        if torch.distributed.is_initialized():
            atexit.register(_leave)
    main = trainer.is_world_process_zero()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    whole = {k: v.detach().to("cpu", copy=True) for k, v in state.items()} if main else {}
    return TrainResult(whole, history, main)


def _leave() -> None:
    """Leave the processes' group, once however many trainings there were."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that was written to its end; the Trainer writes its state last."""
    named = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    found = sorted(named, key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            _log.warning("%s is not complete and is passed over", checkpoint)
        else:
            return checkpoint
    return None


@contextmanager
def _folder(out: Path | None, resume: bool) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"cannot make the folder {out}: {e.strerror}") from e
    if not resume and any(out.glob("checkpoint-*")):  # later a resume would not know whose they are
        raise InputError(f"out {str(out)!r} has checkpoints of another training: resume it, or choose another folder")
    yield out


@contextmanager
def _one_line() -> Iterator[None]:
    """An error in a worker that loads data comes with the worker's traceback as its message."""
    try:
        yield
    except InputError as e:
        raise InputError(str(e).strip().splitlines()[-1].partition(f"{InputError.__name__}: ")[2] or str(e)) from e


def _units(model: nn.Module) -> dict[str, Any]:
    """The units that FSDP shards: a model's blocks, or all of it where there are none."""
    blocks = (module for name, module in model.named_modules() if re.search(r"blocks\.\d+$", name))
    names = sorted({type(block).__name__ for block in blocks})
    return {"transformer_layer_cls_to_wrap": names} if names else {}


def _shares(recipe: Recipe, per_device_batch_size: int | None) -> dict[str, int]:
    """What one process takes at once, and how often, for the recipe's batch; in samples before repetition."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's; the Trainer starts its processes' group later
    whole = recipe.batch_size // recipe.aug_repeats
    share, rest = divmod(whole, processes)
    at_once = min(share, max((per_device_batch_size or recipe.batch_size) // recipe.aug_repeats, 1))
    if rest or not share or share % at_once:
        raise InputError(
            f"batch_size {recipe.batch_size} does not divide over {processes} processes, aug_repeats "
            f"{recipe.aug_repeats} and per_device_batch_size {per_device_batch_size}"
        )
    return {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": share // at_once}
