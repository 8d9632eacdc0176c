"""Trainings in several processes, and killed trainings, end with the weights of one undisturbed process.

Each start of an interpreter costs seconds, so one test checks much.
"""

import json
import math
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from plm_core import shapes
from plm_core.runs import train
from plm_core.testing import check_run_folder
from plm_core.training import newest_checkpoint

SCRIPT = Path(__file__).parent / "train_script.py"
MODEL = "hiera_micro_shapes"

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="two processes would need two devices"),
]


def environment():
    """Return the variables of this process without those that a training in it has set."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}


def torchrun(out, scenes, forked):
    """Run the script in two processes, which communicate over a free port, and return what they log."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(out), str(scenes)],
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def forks(out, scenes, forked):
    """Do the same in two forks of this process, which has all imports already, with the variables of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    log = out / "stderr.txt"

    def work(rank):
        os.environ.clear()
        os.environ.update(kept | store | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 2)
        sys.stderr = os.fdopen(file, "w", buffering=1)
        AcceleratorState._reset_state(reset_partial_state=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
        sys.argv = [str(SCRIPT), str(out), str(scenes)]
        runpy.run_path(str(SCRIPT), run_name="__main__")

    kept = environment()
    processes = [forked(work, rank) for rank in range(2)]
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()[-4000:]
    return log.read_text()


def assert_close(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Write 32 pictures in one class folder."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "scenes").mkdir()
    for number, scene in enumerate(shapes.Images("train", size=48, count=32)):
        Image.fromarray(scene.image).save(folder / "scenes" / f"{number}.png")
    return folder


def assert_command_ran(err, folder):
    """Check a training by ``plm train`` in both processes, of which only the main one prints and writes."""
    told = err.partition("THE COMMAND")[2]
    assert re.findall(r"^epoch \S+", told, re.MULTILINE) == ["epoch 1/2", "epoch 2/2"]
    _, line = (folder / "stdout0.txt").read_text().splitlines()  # below the heading
    assert (folder / "stdout1.txt").read_text() == ""
    name, loss, _ = line.split("\t")
    assert name == "training loss"
    assert math.isfinite(float(loss))
    check_run_folder(folder / "command")


@pytest.mark.parametrize("start", [forks, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_two_processes_end_with_the_weights_of_one(start, scenes, forked, tmp_path):
    """Check DDP with accumulated gradients, FSDP, FSDP interrupted and resumed, and the command, in one start."""
    script = runpy.run_path(str(SCRIPT))
    before = script["untrained"]().state_dict()
    alone, held = script["finetuned"]()
    losses = [entry["loss"] for entry in alone.history]
    scores = [entry["val logit"] for entry in alone.history if "val logit" in entry]
    assert held == [1] * 8
    assert len(set(losses)) == 8
    assert all((alone.state[key] - value).abs().max() > 1e-4 for key, value in before.items())  # training changed all

    told = start(tmp_path, scenes, forked)
    assert "Traceback" not in told
    assert_command_ran(told, tmp_path)
    first, second = (json.loads((tmp_path / f"report{rank}.json").read_text()) for rank in range(2))
    for name in ("copied", "sharded", "resumed"):
        assert_close(alone.state, load_file(tmp_path / f"{name}.safetensors"))
        assert first[name]["losses"] == second[name]["losses"] == pytest.approx(losses, abs=1e-5)
        assert len(scores) == 2
        assert first[name]["scores"] == second[name]["scores"] == pytest.approx(scores, abs=1e-5)
        assert (first[name]["main"], first[name]["tensors"]) == (True, len(before))
        assert (second[name]["main"], second[name]["tensors"]) == (False, 0)
    for name, batches in {"sharded": 8, "stopped": 3, "resumed": 5}.items():
        assert len(first[name]["held"]) == len(second[name]["held"]) == batches
        for share, other in zip(first[name]["held"], second[name]["held"], strict=True):
            assert 0.4 < share < 0.6
            assert share + other == pytest.approx(1)
    assert first["copied"]["held"] == second["copied"]["held"] == [1] * 16


def test_a_killed_training_that_is_resumed_equals_an_undisturbed_one(scenes, forked, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    changes = {"batch_size": "16", "epochs": "8", "warmup_epochs": "2"}

    def run(out, **options):
        train("hiera-pretrain", scenes, out, model=MODEL, settings=changes, **options)

    process = forked(partial(run, killed, save_steps=4))
    while process.is_alive() and not list(killed.glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(killed.glob("*.safetensors"))
    done = int(newest_checkpoint(killed).name.partition("-")[2])
    assert 4 <= done < 16
    run(killed, save_steps=4, resume=True)
    run(whole)
    for name in ("model.safetensors", "autoencoder.safetensors"):
        resumed, undisturbed = load_file(killed / name), load_file(whole / name)
        assert resumed.keys() == undisturbed.keys()
        assert all(torch.equal(resumed[key], undisturbed[key]) for key in undisturbed), name
