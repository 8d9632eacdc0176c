"""The Trainer's settings that follow from a recipe. Import it late, since it imports transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from plm_core.errors import InputError, MissingDependency
from plm_core.training.checks import training_device
from plm_core.training.recipe import Recipe
from plm_core.utils.requirements import installed

REPORTERS = ("tensorboard", "wandb")  # the Trainer's names, which are those of the packages too


def check_reporters(names: str | Sequence[str], out: Path | None) -> list[str]:
    """Return the names of where to report, as the Trainer wants them.

    Args:
        names: Some of "tensorboard" and "wandb", or one of them.
        out: The folder of the training.

    Raises:
        InputError: There is no such name, or TensorBoard's files would have no folder.
        MissingDependency: Its package is not installed.
    """
    names = [names] if isinstance(names, str) else [*names]
    for name in names:
        if name not in REPORTERS:
            raise InputError(f"report_to {name!r} is not allowed: {', '.join(REPORTERS)} are")
        if not installed(name):
            raise MissingDependency(f"report_to {name!r} needs a package that is not installed: install {name}")
    if "tensorboard" in names and out is None and "TENSORBOARD_LOGGING_DIR" not in os.environ:
        raise InputError("report_to 'tensorboard' writes into the folder out, which is None")
    return names


def training_arguments(
    model: nn.Module,
    recipe: Recipe,
    folder: Path,
    *,
    per_device_batch_size: int | None,
    precision: str,
    fsdp: bool,
    device: str,
    **options: Any,
) -> TrainingArguments:
    """Return the Trainer's settings.

    Args:
        model: The model, whose blocks are the units of FSDP.
        recipe: The optimisation.
        folder: Folder for what the Trainer writes.
        per_device_batch_size: See `plm_core.training.fit`.
        precision: See `plm_core.training.fit`.
        fsdp: See `plm_core.training.fit`.
        device: See `plm_core.training.fit`.
        **options: Settings of TrainingArguments by their own names.

    Raises:
        InputError: The batch size does not divide over the processes, or the device cannot be trained on.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs / recipe.aug_repeats,
        learning_rate=recipe.lr,
        max_grad_norm=recipe.clip_grad or 0.0,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        fsdp=fsdp or None,
        fsdp_config=_units(model) if fsdp else None,
        ddp_find_unused_parameters=False,
        use_cpu=training_device(device).type == "cpu",
        **_shares(recipe, per_device_batch_size),
        **options,
    )
    # without torchrun, several GPUs would become nn.DataParallel, with a batch that many times larger
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _units(model: nn.Module) -> dict[str, Any]:
    """Return the FSDP setting that shards a model block by block; empty if it has no blocks, to shard it as a whole."""
    blocks = (module for name, module in model.named_modules() if re.search(r"blocks\.\d+$", name))
    names = sorted({type(block).__name__ for block in (*blocks, *_decoder_layers(model))})
    return {"transformer_layer_cls_to_wrap": names} if names else {}


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of the language models of transformers in a model, which are named ``layers``, not blocks."""
    decoders = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    layers = [getattr(decoder, "layers", None) for decoder in decoders]
    return [layer for stack in layers if isinstance(stack, nn.ModuleList) for layer in stack]


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
