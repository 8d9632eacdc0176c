"""Ctrl-C and SIGTERM during a training."""

import os
import signal
import threading
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import TrainerCallback

from plm_core.errors import PlmError, TrainingInterrupted
from plm_core.training import Recipe, fit, newest_checkpoint
from plm_core.training.interruption import catch_signals

RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1)
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


class Data(torch.utils.data.Dataset):
    """A dataset that may send signals to the process that loads its first sample."""

    def __init__(self, numbers=()):
        self.numbers = numbers

    def __len__(self):
        return 32

    def __getitem__(self, index):
        if index == 0:
            for number in self.numbers:
                os.kill(os.getpid(), number)
        return torch.randn(4), index % 3


class Send(TrainerCallback):
    """A callback that sends signals to this process in the middle of a step."""

    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    def on_step_begin(self, args, state, control, **_):
        if state.global_step + 1 == self.step:
            for number in self.numbers:
                signal.raise_signal(number)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))


def trained(data=None, callback=None, **options):
    model = net()
    callbacks = [callback] if callback else []

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    fit(model, data or Data(), loss, RECIPE, callbacks=callbacks, **options)
    return model.state_dict()


@pytest.fixture(scope="module")
def undisturbed():
    return trained(show=False)


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(autouse=True)
def handlers():
    """Check that the handlers after a test are those before it."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@BOTH
@pytest.mark.parametrize("step", [6, 8])  # inside an epoch, and at the end of one
def test_a_signal_ends_the_step_and_leaves_a_checkpoint_to_go_on_from(undisturbed, tmp_path, one_line, number, step):
    said = f"the training was interrupted by {number.name} after {step} of 16 steps and can be resumed from {tmp_path}"
    with one_line(TrainingInterrupted, f"{said}/checkpoint-{step}") as caught:
        trained(callback=Send(step, number), out=tmp_path, evaluate=lambda model: {"calls": 1})
    assert (caught.value.signum, caught.value.step) == (number, step)
    assert caught.value.checkpoint == str(newest_checkpoint(tmp_path))
    assert isinstance(caught.value, PlmError)
    assert same(trained(out=tmp_path, resume=True), undisturbed)


def test_who_sends_a_signal_waits_for_no_evaluation(tmp_path):
    calls = []
    with pytest.raises(TrainingInterrupted):
        trained(callback=Send(8, signal.SIGINT), out=tmp_path, evaluate=lambda model: calls.append(1) or {"score": 1})
    assert len(calls) == 1  # at the end of the first epoch, after step 4


def test_without_a_folder_nothing_is_kept():
    with pytest.raises(
        TrainingInterrupted, match=r"after 3 of 16 steps and has left nothing, since out is None$"
    ) as caught:
        trained(callback=Send(3, signal.SIGINT))
    assert caught.value.checkpoint is None


def test_a_second_signal_stops_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(callback=Send(6, signal.SIGINT, signal.SIGINT), out=tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_a_signal_after_the_last_step_is_not_lost(tmp_path):
    def evaluate(model):
        signal.raise_signal(signal.SIGTERM)
        return {}

    with pytest.raises(TrainingInterrupted, match=r"after 16 of 16 steps and can be resumed from .*checkpoint-16$"):
        trained(out=tmp_path, evaluate=evaluate, evaluate_every=4)


@pytest.mark.parametrize("show", [True, False])
def test_the_first_signal_is_acknowledged(capfd, show):
    with pytest.raises(TrainingInterrupted):
        trained(callback=Send(1, signal.SIGINT), show=show)
    assert (
        "SIGINT received: the training stops after this step. A second one stops it at once.\n"
        in capfd.readouterr().err
    ) == show


@BOTH
def test_a_process_that_loads_data_outlives_a_signal(undisturbed, number):
    """Ctrl-C in a terminal reaches all processes."""
    assert same(trained(Data([number]), num_workers=1, show=False), undisturbed)


def test_a_signal_that_was_ignored_stays_ignored(undisturbed):
    """As under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert same(trained(callback=Send(3, signal.SIGINT), show=False), undisturbed)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_can_train(undisturbed):
    """Only the main thread may install handlers."""
    states = []
    thread = threading.Thread(target=lambda: states.append(trained(show=False)))
    thread.start()
    thread.join()
    assert same(states[0], undisturbed)


def test_handlers_are_restored_after_an_error():
    with suppress(ZeroDivisionError), catch_signals(say=False):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        raise ZeroDivisionError
