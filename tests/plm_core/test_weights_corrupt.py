"""Corrupt and hostile files: one line, and nothing happens."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest

from plm_core import weights
from plm_core.errors import WeightsError
from plm_core.weights import WeightsMismatch


def packed(header, body=b""):
    """A safetensors file with this header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + body


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
GOOD = packed({"w": F32}, bytes(4))
CORRUPT = {
    "zero bytes": b"",
    "a few bytes": GOOD[:5],
    "truncated header": GOOD[:20],
    "truncated body": GOOD[:-1],
    "trailing bytes": GOOD + b"\0",
    "garbage": bytes(range(256)) * 8,
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "pickle": pickle.dumps({"w": [1.0]}),
    "html": b"<!DOCTYPE html><html>Not found</html>",
    "header length huge": struct.pack("<Q", 2**64 - 1) + GOOD[8:],
    "header length past the end": struct.pack("<Q", 10**6) + GOOD[8:],
    "deep JSON": packed(b'{"w":' * 100_000),
    "long JSON": packed(b"[" * 1_000_000),
    "not an object": packed([]),
    "not UTF-8": packed(b'{"\xff": 1}'),
    "overlapping": packed({"v": F32, "w": F32}, bytes(4)),
    "hole": packed({"w": F32 | {"data_offsets": [4, 8]}}, bytes(8)),
    "backwards": packed({"w": F32 | {"data_offsets": [4, 0]}}, bytes(4)),
    "past the end": packed({"w": F32 | {"data_offsets": [0, 2**40]}}, bytes(4)),
    "shape and size differ": packed({"w": F32 | {"shape": [2]}}, bytes(4)),
    "shape overflows": packed({"w": F32 | {"shape": [2**62, 2**62]}}, bytes(4)),
    "negative shape": packed({"w": F32 | {"shape": [-1]}}, bytes(4)),
    "unknown dtype": packed({"w": F32 | {"dtype": "X9"}}, bytes(4)),
    "metadata not text": packed({"__metadata__": {"a": 1}, "w": F32}, bytes(4)),
}


def test_the_good_file_is_good(tmp_path):
    (tmp_path / "good.safetensors").write_bytes(GOOD)
    assert weights.read(tmp_path / "good.safetensors")["w"].tolist() == [0]


@pytest.mark.parametrize("fault", CORRUPT)
def test_corrupt_files_are_one_line_and_harmless(fault, fresh, tmp_path, one_line):
    path = tmp_path / "model.safetensors"
    path.write_bytes(CORRUPT[fault])
    before = weights.fingerprint(fresh)
    for source in (path, tmp_path):
        with one_line(WeightsError, f"{path} is not a readable safetensors file"):
            weights.load(fresh, source)
    assert weights.fingerprint(fresh) == before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read even by root")
def test_an_unreadable_file(fresh, tmp_path, one_line):
    path = tmp_path / "model.safetensors"
    path.symlink_to("/proc/self/mem")
    with one_line(WeightsError, str(path)):
        weights.load(fresh, path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to itself", "link to nothing"])
def test_things_that_are_no_files(kind, fresh, tmp_path, one_line):
    path = tmp_path / "x.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # opening it would wait for ever
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "nothing")
    with one_line(WeightsError, str(path)):
        weights.load(fresh, path)


def test_an_empty_file_of_no_tensors_lacks_everything(state, fresh, tmp_path, one_line):
    path = tmp_path / "none.safetensors"
    path.write_bytes(packed({}))
    with one_line(WeightsMismatch, "0 tensors fit", "missing: "):
        weights.load(fresh, path)


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w.pth", "w.ckpt", "w.pkl", "w.tar"])
def test_load_does_not_read_pickles(name, state, fresh, source, one_line):
    with one_line(WeightsError, "is a pickle and is not read", f"plm convert {name}"):
        weights.load(fresh, source(state, name))


def test_a_folder_with_a_pickle_only(state, fresh, source, tmp_path, one_line):
    source(state, "pytorch_model.bin")
    with one_line(WeightsError, "has no model.safetensors"):
        weights.load(fresh, tmp_path)
