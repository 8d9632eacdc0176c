"""Disks that are full or fail at any call of the system: one line, and the files from before."""

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest
import torch

import plm_core
from plm_core import weights
from plm_core.errors import PlmError
from plm_core.tools.conversion import convert_file
from plm_core.utils.files import write_text

CALLS = ("open", "close", "fsync", "replace", "chmod", "unlink", "mkdir", "scandir", "stat")
REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES)


@contextlib.contextmanager
def failing(monkeypatch, call, number, reason, folder):
    """Let the ``number``-th call of a function of os fail that is for something below ``folder``."""
    real, left = getattr(os, call), [number]

    def fail(path, *args, **kwargs):
        below = isinstance(path, int) or str(folder) in os.fsdecode(path)
        left[0] -= below
        if below and left[0] == -1:
            raise OSError(reason, os.strerror(reason), None if isinstance(path, int) else os.fspath(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        yield


@pytest.fixture
def writers(tmp_path):
    """Return functions that write below a folder, by name."""
    source = tmp_path / "source.pt"
    model = plm_core.create_model("hiera_micro_digits")
    torch.save(model.state_dict(), source)
    return {
        "save": lambda folder: weights.save(model, folder / "a.safetensors", "official"),
        "save_pretrained": lambda folder: weights.save_pretrained(model, folder / "model", license="mit"),
        "convert": lambda folder: convert_file(source, folder / "b.safetensors", model="hiera_micro_digits"),
        "text": lambda folder: write_text(folder / "new" / "text.txt", "x" * 2000),
    }


def contents(folder):
    """Return the bytes of every file below a folder; part files, which cannot be removed from a failing disk, too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.trials(short=30, long=3000)
def test_writers(trials, drill, tmp_path, writers, monkeypatch, full_disk_after):
    rng, folder = random.Random(trials), tmp_path / "disk"
    folder.mkdir()
    for name, write in writers.items():
        if name != "text":
            write(folder)
    for number in range(trials):
        name = rng.choice(list(writers))
        before = contents(folder)
        if number % 2:
            trouble = full_disk_after(rng.choice([0, 1, 100, 1000, 20_000, 500_000]))
        else:
            trouble = failing(monkeypatch, rng.choice(CALLS), rng.randrange(4), rng.choice(REASONS), folder)
        with trouble:
            answer = drill.attempt(f"{number}: {name}", lambda w=writers[name]: w(folder))
        after = {path: data for path, data in contents(folder).items() if not path.endswith(".part")}
        if isinstance(answer, PlmError):
            drill.expect(f"{number}: {name}", whole(folder, before, after), "not the files from before")
            drill.expect(f"{number}: {name}", "cannot" in str(answer), f"unclear: {answer}")
        for part in folder.rglob("*.part"):
            part.unlink()
        if isinstance(answer, PlmError) and after != before:
            writers[name](folder)


def whole(folder, before, after):
    """Return whether nothing changed, or a model folder lost its config alone, since a rename failed at the end."""
    config = str(Path("model", "config.json"))
    kept = {path: data for path, data in before.items() if path in after or path != config}
    return after == before or (config not in after and after.keys() == kept.keys())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(drill, tmp_path, writers):
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o500)
    for name, write in writers.items():
        drill.expect(name, isinstance(drill.attempt(name, lambda w=write: w(folder)), PlmError), "written")


@pytest.mark.parametrize("place", ["/dev", "/proc", "/dev/null/below", "/sys"])
def test_places_that_hold_no_files(place, drill, writers):
    for name, write in writers.items():
        if place == "/dev" and name != "text":
            continue  # root may make files there
        target = Path(place) if name != "text" else Path(place, "x" * 300)
        answer = drill.attempt(f"{place}, {name}", lambda w=write, t=target: w(t))
        drill.expect(f"{place}, {name}", isinstance(answer, PlmError), "written")
