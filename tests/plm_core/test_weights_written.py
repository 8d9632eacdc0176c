"""Files are written whole or not at all."""

import errno
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from plm_core import weights
from plm_core.errors import WeightsError
from plm_core.tools.conversion import convert_file


def test_a_write_that_the_kernel_refuses_leaves_the_old_file(
    micro, state, source, tmp_path, one_line, listing, full_disk_after
):
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


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"w": torch.eye(3).to_sparse()}, "has w, which is sparse"),
        ({"w": torch.empty(3, device="meta")}, "w is on the meta device and has no values"),
        ({"a\nb": None}, "('a\\nb')"),
        ({1: torch.ones(1)}, "(1)"),
        ({"w": torch.ones(1).expand(10**15)}, "does not fit into the memory"),
    ],
)
def test_tensors_that_safetensors_cannot_hold(state, why, tmp_path, one_line, listing):
    with one_line(WeightsError, "cannot write", why):
        weights.write(state, tmp_path / "out.safetensors")
    assert listing(tmp_path) == {}


def test_the_same_weights_are_the_same_bytes(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2).half(), 'ünï "\n\x1f\x7f': torch.ones(1)}
    metadata = {key: f"{key} \\ \"'ü\t" for key in "zyxabcdefg"}
    written = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        weights.write(dict(reversed(tensors.items())) if number % 2 else tensors, path, metadata)
        written.add(path.read_bytes())
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt", **metadata}
        torch.testing.assert_close(weights.read(path), tensors, rtol=0, atol=0)
    assert len(written) == 1


def test_weights_saved_through_a_link_are_those_of_the_file(micro, tmp_path):
    target, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(target)
    weights.save(micro, link)
    assert link.is_symlink()
    assert weights.read(target).keys() == micro.state_dict().keys()
