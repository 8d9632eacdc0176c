"""`fit`, which trains a model by a recipe with transformers' Trainer, and its checkpoints."""

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
    """The result of a training.

    Attributes:
        state: The whole state dict on the CPU, also if the model was sharded. It is empty except on the main process.
        history: Logged values by step.
        main: Whether this is the main process, which should write the results.
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
        model: The model to train. Its ``no_weight_decay()`` and ``group_matcher()`` are used if it has them.
        data: A map-style dataset. The random generators of Python, NumPy and torch are seeded for each sample, by
            seed, epoch and index.
        loss: A function ``loss(model, batch)`` that returns a scalar, or a scalar and named parts to log. It must call
            the model of its argument, which may be a wrapper.
        recipe: The optimisation.
        out: Folder for checkpoints, written each ``save_steps`` and at the end. The last two are kept. None for no
            checkpoints.
        resume: Whether to continue from the newest complete checkpoint in ``out``, if there is one.
        save_steps: Optimiser steps between checkpoints.
        seed: Random seed.
        collate: A function that makes a batch from a list of samples.
        num_workers: Processes that load data.
        per_device_batch_size: Samples per forward pass on one device (default: the device's share of
            ``recipe.batch_size``). If it is smaller than that share, gradients are accumulated.
        precision: "fp32", or "bf16" or "fp16" to train under autocast.
        max_steps: Stop after this many optimiser steps. The schedule is still that of the whole training.
        log_steps: Steps between logged values.
        fsdp: Whether to shard the parameters over the processes (FSDP) instead of copying them (DDP).
        callbacks: Callbacks of transformers (TrainerCallback).

    Raises:
        InputError: The batch size does not divide over the processes or is larger than the data; ``out`` has
            checkpoints and ``resume`` is False; a sample or the loss is NaN or infinite, in which case the message
            names the samples.
        FileError: The folder cannot be created.
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
        # without torchrun, several GPUs would become nn.DataParallel, with a batch that many times larger
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
        # the Trainer seeded all processes alike, for equal weights; from here on their random numbers should differ
        torch.manual_seed(seed + arguments.process_index)
        np.random.seed(seed + arguments.process_index)
        newest = newest_checkpoint(folder) if resume else None
        with _one_line():
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        # mixed precision leaves a wrapper around the forward of the caller's model
        extract_model_from_parallel(trainer.model_wrapped, keep_fp32_wrapper=False)
        if torch.distributed.is_initialized():
            atexit.register(_leave)
    main = trainer.is_world_process_zero()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    whole = {k: v.detach().to("cpu", copy=True) for k, v in state.items()} if main else {}
    return TrainResult(whole, history, main)


def _leave() -> None:
    """Leave the process group. This runs once, however many trainings there were."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None. The Trainer writes the state file last."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            _log.warning("%s is not complete and is skipped", checkpoint)
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
    if not resume and any(out.glob("checkpoint-*")):  # a later resume could not tell the two trainings apart
        raise InputError(f"out {str(out)!r} has checkpoints of another training: resume it, or choose another folder")
    yield out


@contextmanager
def _one_line() -> Iterator[None]:
    """Re-raise an InputError with its message only: the message of one from a worker is the whole traceback."""
    try:
        yield
    except InputError as e:
        raise InputError(str(e).strip().splitlines()[-1].partition(f"{InputError.__name__}: ")[2] or str(e)) from e


def _units(model: nn.Module) -> dict[str, Any]:
    """Return the FSDP setting that shards a model block by block; empty if it has no blocks, to shard it as a whole."""
    blocks = (module for name, module in model.named_modules() if re.search(r"blocks\.\d+$", name))
    names = sorted({type(block).__name__ for block in blocks})
    return {"transformer_layer_cls_to_wrap": names} if names else {}


def _shares(recipe: Recipe, per_device_batch_size: int | None) -> dict[str, int]:
    """Return the Trainer's batch size per device and its accumulation steps, counted in samples before repetition."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun; the Trainer starts the process group later
    whole = recipe.batch_size // recipe.aug_repeats
    share, rest = divmod(whole, processes)
    at_once = min(share, max((per_device_batch_size or recipe.batch_size) // recipe.aug_repeats, 1))
    if rest or not share or share % at_once:
        raise InputError(
            f"batch_size {recipe.batch_size} does not divide over {processes} processes, aug_repeats "
            f"{recipe.aug_repeats} and per_device_batch_size {per_device_batch_size}"
        )
    return {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": share // at_once}
