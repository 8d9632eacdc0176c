"""Finetune a micro Hiera in several ways for test_distributed.py: ``torchrun ... train_script.py OUT SCENES``.

Only the order of the data is random, so every way of training should lead to the same weights.
"""

import gc
import json
import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from plm_core import weights
from plm_core.cli import main as cli_main
from plm_core.errors import TrainingInterrupted
from plm_core.training import Recipe, fit
from plm_core.training.micro import InMemory

# Not AdamW: the gradients of the keys' biases should be zero but are only nearly so, and AdamW steps by their sign.
RECIPE = Recipe(epochs=2, batch_size=8, lr=0.05, optimizer="sgd", clip_grad=1.0, warmup_epochs=0.5)


def untrained():
    """Return a classifier whose early layers have gradients from the start, unlike with Hiera's initialisation."""
    torch.manual_seed(0)
    model = MaskedAutoencoderHiera(**{**configs.MICRO_SHAPES, **configs.MICRO_MAE})
    return model.plain_encoder(4, q_pool=2, probabilities=False, head_init_scale=1.0)


def finetuned(**options):
    """Return the result of `fit`, and for each batch the share of the parameters that this process held."""
    model = untrained()
    data = InMemory(torch.randn(32, 3, 48, 48), torch.arange(32) % 4)
    held = []

    def loss(model, batch):
        x, y = batch
        parameters = list(model.parameters())
        local = (p.to_local() if isinstance(p, DTensor) else p for p in parameters)
        held.append(sum(p.numel() for p in local) / sum(p.numel() for p in parameters))
        return F.cross_entropy(model(x), y)

    def evaluate(model):
        with torch.inference_mode():  # as `accuracy` does
            return {"val logit": model(data.x[:4])[0, 0]}

    try:
        result = fit(model, data, loss, RECIPE, log_steps=1, evaluate=evaluate, **options)
    except TrainingInterrupted:
        result = None
    return result, held


class InterruptMainProcess(TrainerCallback):
    """Send SIGINT to the main process during the third step."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2 and state.is_world_process_zero:
            signal.raise_signal(signal.SIGINT)


def command(out, scenes):
    """Run ``plm train`` in all processes; each writes what it prints to a file."""
    rank = int(os.environ["RANK"])
    words = ["hiera-pretrain", scenes, "--out", out / "command", "--model", "hiera_micro_shapes", "--fsdp"]
    words += ["--set", "batch_size=8", "--set", "epochs=2", "--set", "warmup_epochs=1"]
    sys.argv = ["plm", "train", *map(str, words)]
    torch.distributed.barrier()
    if not rank:
        print("THE COMMAND", file=sys.stderr, flush=True)
    with (out / f"stdout{rank}.txt").open("w") as file, redirect_stdout(file):
        try:
            cli_main()
        except SystemExit as e:
            assert not e.code  # noqa: PT017


def main(out):
    report = {}
    runs = {
        "sharded": {"fsdp": True},
        "stopped": {"fsdp": True, "out": out / "checkpoints", "callbacks": [InterruptMainProcess()]},
        "resumed": {"fsdp": True, "out": out / "checkpoints", "resume": True},
        "copied": {"per_device_batch_size": 2},
    }
    for name, options in runs.items():
        result, held = finetuned(**options)
        report[name] = {"held": held}
        if result is None:
            continue
        losses = [entry["loss"] for entry in result.history]
        scores = [entry["val logit"] for entry in result.history if "val logit" in entry]
        report[name] |= {"main": result.main, "tensors": len(result.state), "losses": losses, "scores": scores}
        if result.main:
            weights.write(result.state, out / f"{name}.safetensors")
    (out / f"report{os.environ['RANK']}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    gc.freeze()  # every training ends with a collection, which takes long among the objects of the libraries
    main(Path(sys.argv[1]))
    command(Path(sys.argv[1]), sys.argv[2])
