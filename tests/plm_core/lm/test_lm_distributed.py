"""Trainings of a language model in two processes end with the weights of one, sharded or copied, stopped or not.

Each start of an interpreter costs seconds, so one test checks much.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from plm_core.lm.documents import Learner
from plm_core.training.arguments import training_arguments

SCRIPT = Path(__file__).parent / "train_script.py"

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="two processes would need two devices"),
]


def environment():
    """Return the variables of this process without those that a training in it has set."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}


def torchrun(out, data, forked):
    """Run the script in two processes, which communicate over a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(out), str(data)],
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def forks(out, data, forked):
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
        sys.argv = [str(SCRIPT), str(out), str(data)]
        runpy.run_path(str(SCRIPT), run_name="__main__")

    kept = environment()
    processes = [forked(work, rank) for rank in range(2)]
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()[-4000:]


def assert_close(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", [forks, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_two_processes_end_with_the_weights_of_one(start, tiny, conversations, forked, tmp_path):
    """Each process sees one conversation at a time, so one of them may see a text where the other sees an image."""
    before = tiny.untrained().state_dict()
    options = {"rows": 12, "per_device_batch_size": 1}
    _, alone, held = tiny.trained(conversations, tiny.FOURS, **options)
    adapted = tiny.trained(conversations, replace(tiny.FOURS, lora_rank=2), **options)[1].state
    losses = [entry["loss"] for entry in alone.history]
    assert held == [1] * 12
    assert len(losses) == 3
    assert all((alone.state[key] - value).abs().max() > 1e-6 for key, value in before.items())  # training changed all

    start(tmp_path, conversations, forked)
    first, second = (json.loads((tmp_path / f"report{rank}.json").read_text()) for rank in range(2))
    for name in ("copied", "sharded", "resumed"):
        assert_close(alone.state, load_file(tmp_path / f"{name}.safetensors"))
        assert first[name]["losses"] == second[name]["losses"] == pytest.approx(losses, abs=1e-5)
        assert first[name]["score"] == pytest.approx(alone.history[-1]["held-out loss"], abs=1e-5)
        assert (first[name]["main"], first[name]["tensors"]) == (True, len(before))
        assert (second[name]["main"], second[name]["tensors"]) == (False, 0)
    assert_close(adapted, load_file(tmp_path / "adapted.safetensors"))
    for name, batches in {"sharded": 6, "stopped": 4, "resumed": 2}.items():
        assert len(first[name]["held"]) == len(second[name]["held"]) == batches
        assert all(0.4 < share < 0.6 for share in (*first[name]["held"], *second[name]["held"]))
    assert first["copied"]["held"] == second["copied"]["held"] == [1] * 6


def test_the_blocks_of_the_tower_and_the_layers_of_the_decoder_are_sharded_apart(tiny, tmp_path):
    options = {"per_device_batch_size": None, "precision": "fp32", "device": "cpu"}
    arguments = training_arguments(Learner(tiny.untrained()), tiny.RECIPE, tmp_path, fsdp=True, **options)
    assert arguments.fsdp_config["transformer_layer_cls_to_wrap"] == ["Block", "LlamaDecoderLayer"]
