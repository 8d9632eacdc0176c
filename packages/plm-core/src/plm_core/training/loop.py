"""`fit`, which trains a model by a recipe with transformers' Trainer."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from plm_core.errors import InputError, MissingDependency
from plm_core.training.checkpoints import CheckpointWriter, checkpoint_to_resume, run_folder
from plm_core.training.checks import AT_LEAST_0, AT_LEAST_1, MORE_THAN_0, SEED, check_options, refused, training_device
from plm_core.training.evaluation import Evaluate
from plm_core.training.history import history
from plm_core.training.interruption import catch_signals, interrupted
from plm_core.training.recipe import Loss, Recipe
from plm_core.training.seeding import Collate, Seeded
from plm_core.utils.arguments import DEVICE
from plm_core.utils.seeding import GENERATORS


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        state: The whole state dict on the CPU, also if the model was sharded. It is empty except on the main process.
        history: Logged values, one entry per logged step, of resumed trainings from their first step on. An entry has
            "step" (optimiser steps), "epoch" (passes over the data, as in the recipe), "loss" (the mean over the steps
            since the last entry) and "learning_rate" (the one of ``recipe.lr`` and the schedule, without
            ``layer_decay``). It also has "grad_norm" (before clipping) if the Trainer knows it, the means of the named
            parts of the loss, and after an evaluation its scores.
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
    out: str | Path | None = None,
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
    device: str = DEVICE,
    evaluate: Evaluate | None = None,
    evaluate_every: float = 1.0,
    report_to: str | Sequence[str] = (),
    show: bool = True,
    callbacks: Sequence[Any] = (),
) -> TrainResult:
    """Train a model in place.

    Ctrl-C or SIGTERM stops the training at the end of the step in flight, and a checkpoint is written there. Training
    that is resumed from any checkpoint ends with the weights of an undisturbed one. A second Ctrl-C stops at once.

    Trainings in several threads of one process run one after another, since they share its random generators.

    Args:
        model: The model to train. Its ``no_weight_decay()`` and ``group_matcher()`` are used if it has them.
        data: A map-style dataset. The random generators of Python, NumPy and torch are seeded for each sample, by
            seed, epoch and index. Samples that do not fill a batch are left out, in each epoch others.
        loss: A function ``loss(model, batch)`` that returns a scalar, or a scalar and named parts to log. It must call
            the model of its argument, which may be a wrapper.
        recipe: The optimisation.
        out: Folder for checkpoints, written each ``save_steps`` and at the end. The last two are kept. None for no
            checkpoints. Only one training at a time can use it.
        resume: Whether to continue from the newest checkpoint in ``out``. If there is none, the training starts from
            the beginning, with a warning, so a job that is restarted may always ask for it. A checkpoint in which a
            file is missing or not as it was written is skipped, with a warning.
        save_steps: Optimiser steps between checkpoints.
        seed: Random seed.
        collate: A function that makes a batch from a list of samples.
        num_workers: Processes that load data.
        per_device_batch_size: Samples per forward pass on one device (default: the device's share of
            ``recipe.batch_size``). If it is smaller than that share, gradients are accumulated.
        precision: "fp32", or "bf16" or "fp16" to train under autocast.
        max_steps: Stop after this many optimiser steps. The schedule is still that of the whole training.
        log_steps: Steps between logged values. The end of each epoch is logged too.
        fsdp: Whether to shard the parameters over the processes (FSDP) instead of copying them (DDP).
        device: "auto" for the accelerator if there is one, else the CPU; "cpu", or the accelerator's name.
        evaluate: A function ``evaluate(model)`` that returns named scores, such as {"val top-1 %": 83.1}, for the
            history. It is called with the model in eval mode and without gradients. The training goes on as if there
            had been no evaluation: modes and random generators are restored. Under torchrun every process calls it at
            the same time, since a sharded model needs all of them, and the scores of the main process count.
        evaluate_every: Epochs between evaluations (a fraction for several per epoch, or more than 1). There is always
            one at the end of the training.
        report_to: Where to report the logged values, besides the history: "tensorboard" (files in ``out/runs``) or
            "wandb" (Weights & Biases, by its own settings and environment variables). Their packages are no
            dependencies of plm-core.
        show: Whether the main process shows the progress on stderr: a bar on a terminal, else a line per epoch.
        callbacks: Callbacks of transformers (TrainerCallback). A method ``on_checkpoint()`` of one is called in the
            main process before a checkpoint is there to be resumed.

    Raises:
        InputError: An option is not allowed; the batch size does not divide over the processes or is larger than the
            data; ``out`` has checkpoints and ``resume`` is False, or all of them are damaged and it is True; another
            training uses ``out``; a sample or the loss is NaN or infinite, in which case the message
            names the samples; a score has the name of another logged value;
            ``report_to`` has an unknown name, or "tensorboard" without ``out``.
        TrainingInterrupted: Ctrl-C or SIGTERM stopped the training.
        FileError: The folder cannot be created, or a checkpoint cannot be written.
        MissingDependency: The extra plm-core[train] or a package for ``report_to`` is not installed.
    """
    try:
        import transformers  # noqa: F401
        from accelerate.utils import extract_model_from_parallel
    except ModuleNotFoundError as e:
        raise MissingDependency("training needs transformers and accelerate: install plm-core[train]") from e
    from plm_core.training.arguments import check_reporters, training_arguments
    from plm_core.training.callbacks import StopOnSignal
    from plm_core.training.display import display
    from plm_core.training.trainer import RecipeTrainer

    if isinstance(data, str | bytes | Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise refused("data", data, "a dataset with a length")
    check_fit_options(
        model=model,
        loss=loss,
        recipe=recipe,
        save_steps=save_steps,
        seed=seed,
        num_workers=num_workers,
        per_device_batch_size=per_device_batch_size,
        precision=precision,
        max_steps=max_steps,
        device=device,
        log_steps=log_steps,
        evaluate_every=evaluate_every,
        report_to=report_to,
        out=out,
    )
    out = None if out is None else Path(out)
    reporters = check_reporters(report_to, out)
    if fsdp and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise InputError("fsdp shards over several processes, and this is the only one: run the command under torchrun")

    with GENERATORS, run_folder(out, resume) as folder:
        newest = checkpoint_to_resume(folder, max_steps) if resume else None
        arguments = training_arguments(
            model,
            recipe,
            folder,
            per_device_batch_size=per_device_batch_size,
            precision=precision,
            fsdp=fsdp,
            device=device,
            seed=seed,
            data_seed=seed,
            save_strategy="no" if out is None else "steps",
            save_steps=save_steps,
            logging_steps=log_steps,
            report_to=reporters,
            run_name=None if out is None else out.name,
            disable_tqdm=True,
            dataloader_num_workers=num_workers,
        )
        count: int = len(data)
        if count * recipe.aug_repeats < recipe.batch_size:
            raise InputError(
                f"batch_size {recipe.batch_size} is larger than the data, {count} samples: set a smaller one"
            )
        samples = Seeded(data, seed, recipe.aug_repeats, recipe.batch_size // recipe.aug_repeats)
        trainer = RecipeTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=Collate(collate),
            callbacks=[*callbacks],
            loss=loss,
            recipe=recipe,
            max_steps=max_steps,
            scoring=evaluate,
            evaluate_every=evaluate_every,
            checkpoints=CheckpointWriter(folder, newest),
        )
        # the Trainer seeded all processes alike, for equal weights; from here on their random numbers should differ
        torch.manual_seed(seed + arguments.process_index)
        np.random.seed(seed + arguments.process_index)
        main = trainer.is_world_process_zero()
        with _one_line(), catch_signals(say=show and main) as signals, ExitStack() as shown:
            trainer.add_callback(StopOnSignal(signals))
            if show and main:
                trainer.add_callback(shown.enter_context(display(recipe, max_steps)))
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
            signum = signals.agreed(arguments.device)
        state = {} if signum else trainer.accelerator.get_state_dict(trainer.model_wrapped)
        # mixed precision leaves a wrapper around the forward of the caller's model
        extract_model_from_parallel(trainer.model_wrapped, keep_fp32_wrapper=False)
        if torch.distributed.is_initialized():
            atexit.register(_leave)
        if signum:
            raise interrupted(signum, trainer.state.global_step, trainer.state.max_steps, out)
    entries = history(trainer.state.log_history, recipe.aug_repeats)
    whole = {k: v.detach().to("cpu", copy=True) for k, v in state.items()} if main else {}
    return TrainResult(whole, entries, main)


def check_fit_options(**options: Any) -> None:
    """Check arguments of `fit`.

    Args:
        **options: Some of the arguments, by name.

    Raises:
        InputError: An option is not allowed.
    """
    check_options(
        fit,
        options,
        save_steps=AT_LEAST_1,
        seed=SEED,
        num_workers=AT_LEAST_0,
        per_device_batch_size=AT_LEAST_1,
        max_steps=AT_LEAST_1,
        log_steps=AT_LEAST_1,
        evaluate_every=MORE_THAN_0,
    )
    if "device" in options:
        training_device(options["device"])


def _leave() -> None:
    """Leave the process group. This runs once, however many trainings there were."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _one_line() -> Iterator[None]:
    """Re-raise an InputError with its message only: the message of one from a worker is the whole traceback."""
    try:
        yield
    except InputError as e:
        raise InputError(str(e).strip().splitlines()[-1].partition(f"{InputError.__name__}: ")[2] or str(e)) from e
