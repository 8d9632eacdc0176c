"""Trainings that are killed at random moments, resumed, and end as if nothing had happened."""

import random
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plm_core.training import Recipe, fit

RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1, clip_grad=1.0)
STEPS = 16


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.randn(4) + index, index % 3


def trained(out=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    fit(
        model,
        Noise(),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        RECIPE,
        out=out,
        show=False,
        **options,
    )
    return model.state_dict()


@pytest.mark.trials(short=1, long=300)
def test_killed_trainings(drill, trials, forked, tmp_path):
    """Each training is killed up to three times. Half of the long drill's trainings have processes that load data."""
    rng = random.Random(trials)
    start = time.monotonic()
    expected = trained(tmp_path / "whole", save_steps=1)
    usual = time.monotonic() - start
    for trial in range(trials):
        out, save_steps, workers = tmp_path / f"{trial}", rng.choice([1, 2, 5]), (trial % 2 if trials > 99 else 0)
        for _ in range(rng.choice([1, 1, 3])):
            process = forked(partial(trained, out, save_steps=save_steps, num_workers=workers, resume=True))
            time.sleep(rng.random() * usual)
            process.kill()
            process.join()
        case = f"training {trial}, killed while it saved each {save_steps} steps"
        state = drill.attempt(case, lambda out=out, n=save_steps: trained(out, save_steps=n, resume=True))
        same = isinstance(state, dict) and all(torch.equal(state[key], expected[key]) for key in expected)
        drill.expect(case, same, f"other weights, or {state!r}")
        left = {path.name for path in out.iterdir()}
        kept = {name for name in left if name.startswith("checkpoint-")}
        drill.expect(case, f"checkpoint-{STEPS}" in kept and len(kept) <= 2 and left == kept, f"{left} are left")
