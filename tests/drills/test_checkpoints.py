"""Damaged checkpoints: a training goes on from the one before, with the right weights, or says why it cannot."""

import random
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plm_core.errors import InputError
from plm_core.training import Recipe, fit, newest_checkpoint

RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1)
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "manifest.json")


def trained(out=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    data = torch.utils.data.TensorDataset(torch.arange(128.0).view(32, 4) / 128, torch.arange(32) % 3)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    fit(model, data, loss, RECIPE, out=out, save_steps=4, show=False, **options)
    return model.state_dict()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with the checkpoints of steps 8 and 12, and the weights after the last step, 16."""
    folder = tmp_path_factory.mktemp("run")
    trained(folder, max_steps=12)
    return folder, trained()


def remove(path, rng):
    path.unlink()


def empty(path, rng):
    path.write_bytes(b"")


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, len(data))])


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def garbage(path, rng):
    path.write_bytes(rng.randbytes(path.stat().st_size))


def lengthen(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 9)))


def older(path, rng):
    shutil.copy(path.parent.with_name("checkpoint-8") / path.name, path)


def folder(path, rng):
    path.unlink()
    path.mkdir()


DAMAGES = (remove, empty, cut, flip, garbage, lengthen, older, folder)


@pytest.mark.trials(short=10, long=2000)
def test_damaged_checkpoints(drill, trials, runs, tmp_path):
    """Every kind of damage to every file, in turns; a few trainings are taken to their end."""
    source, expected = runs
    rng = random.Random(trials)
    cases = [(name, damage) for name in FILES for damage in DAMAGES]
    for trial in range(trials):
        name, damage = rng.choice(cases) if trials > len(cases) else cases[trial * len(cases) // trials]
        out = tmp_path / f"{trial}"
        shutil.copytree(source, out)
        before = (out / "checkpoint-12" / name).read_bytes()
        damage(out / "checkpoint-12" / name, rng)
        path = out / "checkpoint-12" / name
        harmless = path.is_file() and path.read_bytes() == before
        case = f"{trial}: {damage.__name__} {name}"
        newest = drill.attempt(case, lambda out=out: newest_checkpoint(out))
        trusted = newest == out / "checkpoint-12"
        # a manifest may be damaged in its spaces only
        drill.expect(case, newest == out / "checkpoint-8" or (trusted and (harmless or name == FILES[-1])), newest)
        if trial % 6 == 0:
            state = drill.attempt(case, lambda out=out: trained(out, resume=True))
            same = isinstance(state, dict) and all(torch.equal(state[key], expected[key]) for key in expected)
            drill.expect(case, same, f"other weights, or {state!r}")
        shutil.rmtree(out)


def test_with_no_checkpoint_left_one_line_says_so(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "out")
    (tmp_path / "out" / "checkpoint-8" / "optimizer.pt").unlink()
    empty(tmp_path / "out" / "checkpoint-12" / "rng_state.pth", None)
    why = r"has no checkpoint that is whole \(checkpoint-12: rng_state.pth has 0 bytes instead of \d+\)"
    with pytest.raises(InputError, match=why):
        trained(tmp_path / "out", resume=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint-8", "checkpoint-12"}
