"""Finetunes a micro Hiera in several ways, for test_distributed.py: ``torchrun ... train_script.py OUT`` writes there.

Nothing is random but the order of the data, so the weights are a function of the data however they are trained.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor

from hiera import configs
from hiera.mae import MaskedAutoencoderHiera
from plm_core import weights
from plm_core.training import Recipe, fit
from plm_core.training.micro import InMemory

# not AdamW: it makes steps of the sign of gradients that should be zero (of the keys' biases) and are only about
RECIPE = Recipe(epochs=2, batch_size=8, lr=0.05, optimizer="sgd", clip_grad=1.0, warmup_epochs=0.5)


def untrained():
    """A classifier whose early layers have gradients from the start, other than with Hiera's initialisation."""
    torch.manual_seed(0)
    model = MaskedAutoencoderHiera(**{**configs.MICRO_SHAPES, **configs.MICRO_MAE})
    return model.plain_encoder(4, q_pool=2, probabilities=False, head_init_scale=1.0)


def finetuned(**options):
    """What `fit` leaves, and for each batch how much of the parameters this process held."""
    model = untrained()
    data = InMemory(torch.randn(32, 3, 48, 48), torch.arange(32) % 4)
    held = []

    def loss(model, batch):
        x, y = batch
        parameters = list(model.parameters())
        local = (p.to_local() if isinstance(p, DTensor) else p for p in parameters)
        held.append(sum(p.numel() for p in local) / sum(p.numel() for p in parameters))
        return F.cross_entropy(model(x), y)

    trained = fit(model, data, loss, RECIPE, log_steps=1, **options)
    return trained, held


def main(out):
    report = {}
    runs = {
        "sharded": {"fsdp": True},
        "stopped": {"fsdp": True, "out": out / "checkpoints", "max_steps": 3},
        "resumed": {"fsdp": True, "out": out / "checkpoints", "resume": True},
        "copied": {"per_device_batch_size": 2},
    }
    for name, options in runs.items():
        trained, held = finetuned(**options)
        losses = [entry["loss"] for entry in trained.history]
        report[name] = {"held": held, "main": trained.main, "tensors": len(trained.state), "losses": losses}
        if trained.main:
            weights.write(trained.state, out / f"{name}.safetensors")
    (out / f"report{os.environ['RANK']}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
