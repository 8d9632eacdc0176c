"""Callbacks that steer the Trainer. Import it late, since it imports transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from plm_core.training.history import passed
from plm_core.training.interruption import Signals


class StopAfter(TrainerCallback):
    """A callback that stops the training after a number of steps and saves a checkpoint there.

    Args:
        max_steps: The number of steps; None for no stop.
    """

    def __init__(self, max_steps: int | None) -> None:
        self.max_steps = max_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if it is time."""
        if self.max_steps is not None and state.global_step >= self.max_steps:
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"


class AfterStep(TrainerCallback):
    """A callback that calls a function after each step of the optimiser, such as one that limits a parameter.

    Args:
        call: The function.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call the function."""
        self.call()


class Progress(TrainerCallback):
    """A callback that knows how much of the training is done, for a loss that changes in its course.

    Attributes:
        share: The share of the steps of the whole schedule that are done, from 0 to less than 1.
    """

    def __init__(self) -> None:
        self.share = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the share; in a resumed training it goes on."""
        self.share = state.global_step / max(state.max_steps, 1)


class Epochs(TrainerCallback):
    """A callback that tells the dataset the epoch, and has values logged and the model evaluated when it is time.

    Values are logged at the end of each epoch and of the training, whatever the Trainer's logging steps.

    Args:
        data: The dataset.
        aug_repeats: Passes over the data that the Trainer counts as one epoch.
        evaluate_every: Epochs between evaluations; None for no evaluation.
    """

    def __init__(self, data: Any, aug_repeats: int, evaluate_every: float | None) -> None:
        self.data = data
        self.aug_repeats = aug_repeats
        self.evaluate_every = evaluate_every
        self.epoch = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read the epoch, which is not 0 in a resumed training."""
        self.epoch = (state.epoch or 0) * self.aug_repeats

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the dataset the epoch."""
        self.data.epoch = int(state.epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for logged values and an evaluation if it is time."""
        before, self.epoch = self.epoch, state.epoch * self.aug_repeats
        ends = control.should_training_stop or state.global_step >= state.max_steps
        if self.evaluate_every and (ends or passed(before, self.epoch, self.evaluate_every)):
            control.should_evaluate = True
        if ends or control.should_evaluate or passed(before, self.epoch):
            control.should_log = True


class StopOnSignal(TrainerCallback):
    """A callback that stops the training at the end of the step in which a signal came, and saves a checkpoint there.

    It belongs after `Epochs`: the model is not evaluated, since who sends a signal does not want to wait.

    Args:
        signals: The signals that this process has received.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if there was a signal."""
        if self.signals.agreed(args.device):
            control.should_training_stop = control.should_log = True
            control.should_save = args.save_strategy != "no"
            control.should_evaluate = False
