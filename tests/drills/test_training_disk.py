"""Trainings on a disk that is full at any moment: one line that says so, and afterwards the weights of a whole run."""

import multiprocessing
import os
import random
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plm_core.errors import FileError
from plm_core.training import Recipe, fit

resource = pytest.importorskip("resource", reason="no limits on the size of files")

RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-2)


def trained(out=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 200), nn.Dropout(0.2), nn.Linear(200, 3))
    data = torch.utils.data.TensorDataset(torch.arange(256.0).view(32, 8) / 256, torch.arange(32) % 3)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    fit(model, data, loss, RECIPE, out=out, save_steps=3, show=False, **options)
    return model.state_dict()


def limited(out, limit, answer):
    """Train with a limit on the size of a file, which has the effect of a full disk, and send what is raised."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        trained(out, resume=True)
        answer.send(None)
    except Exception as e:
        answer.send((isinstance(e, FileError), f"{type(e).__name__}: {e}"))


@pytest.mark.trials(short=2, long=600)
def test_full_disks(drill, trials, forked, tmp_path):
    """The limit lies between the sizes of two files of a checkpoint, so that each is the one that does not fit."""
    rng = random.Random(trials)
    expected = trained(tmp_path / "whole")
    sizes = sorted({path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-8").iterdir()})
    for trial in range(trials):
        largest = sizes[trial % len(sizes)]
        limit = max(largest - (1 if trial < len(sizes) else rng.randrange(1, largest)), 0)
        out, case = tmp_path / f"{trial}", f"{trial}: at most {limit} bytes"
        if trial % 3 == 0:  # one that has been going on
            trained(out, max_steps=4)
        before = {path.name for path in out.iterdir()} if out.exists() else set()
        theirs, ours = multiprocessing.Pipe()
        process = forked(limited, out, limit, ours)
        ours.close()
        told = theirs.recv() if theirs.poll(60) else (False, "nothing")
        process.join()
        right = told is not None and told[0] and str(out) in told[1] and "File too large" in told[1]
        drill.expect(case, right and "\n" not in told[1], told)
        left = {path.name for path in out.iterdir()}
        drill.expect(case, left == before, f"{left} are left of {before}")
        state = drill.attempt(case, lambda out=out: trained(out, resume=True))
        same = isinstance(state, dict) and all(torch.equal(state[key], expected[key]) for key in expected)
        drill.expect(case, same, f"other weights, or {state!r}")
        shutil.rmtree(out)


def test_a_folder_that_vanishes_is_named(tmp_path):
    from transformers import TrainerCallback

    class Vanish(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                shutil.rmtree(tmp_path / "out")
                (tmp_path / "out").write_text("a file")

    with pytest.raises(FileError, match=f"cannot write a checkpoint to {str(tmp_path / 'out')!r}: "):
        trained(tmp_path / "out", callbacks=[Vanish()])
    os.unlink(tmp_path / "out")
