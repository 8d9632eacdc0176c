"""Files are written whole or not at all."""

import contextlib
import errno
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch

from plm_core import weights
from plm_core.errors import WeightsError
from plm_core.tools.conversion import convert_file


@contextlib.contextmanager
def full_disk_after(size):
    """Let no file grow beyond ``size`` bytes: the kernel then refuses writes in the middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_kernel_refuses_leaves_the_old_file(micro, state, source, tmp_path, one_line, listing):
    path, target = source(state), tmp_path / "target.safetensors"
    weights.write({"w": torch.zeros(1)}, target)
    before = listing(tmp_path)
    for call in (
        lambda: convert_file(path, target, to="official"),
        lambda: weights.save(micro, target),
        lambda: weights.save(micro, tmp_path / "new.safetensors"),
    ):
        with full_disk_after(200_000), one_line(WeightsError, "cannot write", str(tmp_path)):
            call()
        assert listing(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_stops_in_the_middle_leaves_the_old_file(error, micro, tmp_path, monkeypatch, one_line, listing):
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"before")

    def half(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    if isinstance(error, OSError):
        with one_line(WeightsError, f"cannot write {target}", "No space left on device"):
            weights.save(micro, target)
    else:
        with pytest.raises(KeyboardInterrupt):
            weights.save(micro, target)
    assert listing(tmp_path) == {Path("target.safetensors"): b"before"}


def test_places_that_cannot_be_written_to(state, tmp_path, one_line, listing):
    (tmp_path / "folder.safetensors" / "x").mkdir(parents=True)
    (tmp_path / "file").write_text("before")
    before = listing(tmp_path)
    for target in (tmp_path / "folder.safetensors", tmp_path / "file" / "below.safetensors"):
        with one_line(WeightsError, f"cannot write {target}"):
            weights.write(state, target)
    assert listing(tmp_path) == before


def test_tensors_that_safetensors_cannot_hold(tmp_path, one_line, listing):
    with one_line(WeightsError, "cannot write"):
        weights.write({"sparse": torch.eye(3).to_sparse()}, tmp_path / "out.safetensors")
    assert listing(tmp_path) == {}
