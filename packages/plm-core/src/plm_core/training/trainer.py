"""The Trainer of transformers, driven by a `Recipe`. Import it late, since it imports transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer

from plm_core.errors import InputError
from plm_core.training.callbacks import Epochs, StopAfter
from plm_core.training.checkpoints import CheckpointWriter
from plm_core.training.evaluation import Evaluate, undisturbed
from plm_core.training.history import EVALUATION
from plm_core.training.recipe import Loss, Recipe, parameter_groups


class RecipeTrainer(Trainer):
    """A Trainer that takes a loss function, and its optimiser and schedule from a recipe."""

    def __init__(
        self,
        *args: Any,
        loss: Loss,
        recipe: Recipe,
        max_steps: int | None,
        scoring: Evaluate | None,
        evaluate_every: float,
        checkpoints: CheckpointWriter,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss
        self.recipe = recipe
        self.scoring = scoring
        self.checkpoints = checkpoints
        self.parts: dict[str, list[Tensor]] = {}
        self.model_accepts_loss_kwargs = False  # accumulated losses are then averaged
        self.remove_callback(PrinterCallback)  # `display` shows what is going on
        self.add_callback(StopAfter(max_steps))
        self.add_callback(Epochs(self.train_dataset, recipe.aug_repeats, evaluate_every if scoring else None))

    def create_accelerator_and_postprocess(self) -> None:
        """Let FSDP run on CPUs too. torch supports that (over gloo), but accelerate silently falls back to DDP."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.fsdp and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimiser of the recipe over its parameter groups."""
        groups = parameter_groups(model if model is not None else self.model, self.recipe)
        optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.recipe.lr, momentum=self.recipe.betas[0])
        elif self.recipe.optimizer == "lamb":
            from timm.optim import Lamb

            # the norm of the gradient is the recipe's clip_grad, not the optimiser's
            optimizer = Lamb(groups, lr=self.recipe.lr, betas=self.recipe.betas, max_grad_norm=None)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr, betas=self.recipe.betas)
        self.optimizer = optimizer
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the schedule that follows the learning-rate factor of the recipe."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: self.recipe.lr_factor(step, num_training_steps)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.part)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint completely or not at all.

        Raises:
            FileError: It cannot be written.
        """
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                for callback in self.callback_handler.callbacks:
                    getattr(callback, "on_checkpoint", lambda: None)()
                self.checkpoints.seal()
            self.accelerator.wait_for_everyone()  # who has been told that there is a checkpoint can read it
        except (OSError, RuntimeError, SafetensorError) as e:
            size = 3 * sum(parameter.nbytes for parameter in self.model.parameters())  # the optimiser has two moments
            raise self.checkpoints.failure(e, size) from e
        finally:
            if self.args.should_save:
                self.checkpoints.discard()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, None]:
        """Compute the loss.

        Raises:
            InputError: The loss is not finite.
        """
        result = self.loss(model, inputs["batch"])
        value, parts = result if isinstance(result, tuple) else (result, {})
        if not bool(torch.isfinite(value)):
            raise InputError(
                f"the loss is {value.item()} at step {self.state.global_step}, samples {inputs['indices']}: lower the "
                "learning rate, or check these samples"
            )
        for name, part in parts.items():
            self.parts.setdefault(name, []).append(part.detach())
        return (value, None) if return_outputs else value

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the model with the caller's function, and log the scores.

        Raises:
            InputError: A score has the name of another logged value.
        """
        if self.scoring is None:
            raise InputError("evaluate is None: there is nothing to evaluate with")
        with undisturbed(self.model, self.args.seed):
            scores = {name: float(value) for name, value in self.scoring(self.model).items()}
        taken = scores.keys() & self.state.log_history[-1].keys()
        if taken:
            raise InputError(f"evaluate returned {min(taken)!r}, which is the name of another logged value")
        metrics = {EVALUATION + name: value for name, value in scores.items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # changes the control in place
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the values of the Trainer together with the mean of each part of the loss."""
        means: Mapping[str, float] = {name: torch.stack(parts).mean().item() for name, parts in self.parts.items()}
        self.parts.clear()
        if "learning_rate" in logs:  # it is that of the first group, which layer_decay scales
            logs["learning_rate"] *= self.recipe.lr / float(self.lr_scheduler.base_lrs[0])
        super().log({**logs, **means}, start_time)
