"""Hostile pickles: no code runs, nothing is written, and each is read or refused in one line."""

import argparse
import io
import pickle
import random
import struct
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from plm_core import weights
from plm_core.errors import PlmError
from plm_core.tools.conversion import convert_file

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Validating sparse")


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


def saved(thing, **options):
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


def archive(data, edit, compression=zipfile.ZIP_STORED):
    """Return a checkpoint with the parts of another, each through ``edit(name, bytes)``."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, edit(name, source.read(name)))
    return out.getvalue()


def overlapping(data):
    """Return a checkpoint that takes ten times its size: ten entries of its directory point to the same bytes."""
    out = bytearray(data)
    end = out.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack("<HII", out[end + 10 : end + 20])
    directory, tail = bytes(out[start : start + size]), out[end:]
    tail[8:20] = struct.pack("<HHII", 10 * count, 10 * count, 10 * size, start)
    return bytes(out[:start] + 10 * directory + tail)


def hostile(marker):
    """Yield (name, bytes): pickles that want to write ``marker``, to take much memory, or that are odd."""
    good = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    calls = {
        "write": Call(Path.write_text, marker, "run"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "open": Call(open, str(marker), "w"),
        "getattr": Call(getattr, marker, "touch"),
        "import": Call(__import__, "antigravity"),
        "load": Call(torch.load, str(marker)),
        "namespace": Call(argparse.Namespace),
        "parser": Call(argparse.FileType("w"), str(marker)) if hasattr(argparse, "FileType") else Call(exec, ""),
    }
    for name, call in calls.items():
        places = {"value": {**good, "x": call}, "alone": call, "wrapped": {"model": good, "args": call}}
        places["settings"] = {"model": good, "args": argparse.Namespace(x=call)}
        places["average"] = {"state_dict": good, "state_dict_ema": call}
        for place, thing in places.items():
            yield f"{name}, {place}", saved(thing)
            yield f"{name}, {place}, old", saved(thing, _use_new_zipfile_serialization=False)
            yield f"{name}, {place}, bare", pickle.dumps(thing, protocol=2)
    odd = {
        "list": [good], "None": None, "text": {"weight": "x"}, "numbers": {1: torch.zeros(1)}, "empty": {},
        "tuple": {("a", ("b",)): torch.zeros(1)}, "nested": {"model": {"model": {"model": good}}},
        "both": {"model": good, "model_ema": 3, "state_dict_ema": []}, "whole": nn.Linear(2, 2),
        "sparse": {**good, "bias": torch.zeros(2).to_sparse()}, "meta": {**good, "bias": torch.zeros(2, device="meta")},
        "huge view": {**good, "bias": torch.zeros(1).expand(10**12)}, "names": {"a\n\x1b[2J" * 10**5: torch.zeros(1)},
        "complex": {**good, "bias": torch.zeros(2, dtype=torch.complex64)}, "long": {"bias": torch.ones(2).long()},
    }  # fmt: skip
    for name, thing in odd.items():
        yield name, saved(thing)
    yield "deflated", archive(saved({"w": torch.zeros(500_000)}), lambda _, part: part, zipfile.ZIP_DEFLATED)
    yield "overlapping", overlapping(saved({"w": torch.zeros(500_000)}))
    yield "no storage", archive(saved(good), lambda name, part: b"" if "/data/" in name else part)
    yield "no pickle", archive(saved(good), lambda name, part: b"" if name.endswith(".pkl") else part)
    yield "deep", pickle.dumps({"w": 1}, 2)[:2] + b"(" * 10**4 + b"."
    yield "marks", b"\x80\x02" + b"]" * 10**4 + b"."
    yield "long integer", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."
    yield "long text", b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"."


def test_hostile_pickles(drill, tmp_path):
    folder, marker = tmp_path / "folder", tmp_path / "marker"
    folder.mkdir()
    path, model, out = folder / "x.pt", nn.Linear(2, 2), tmp_path / "out.safetensors"
    before, own = weights.fingerprint(model), {key: value.clone() for key, value in model.state_dict().items()}
    for name, data in hostile(marker):
        path.write_bytes(data)
        tensors = drill.attempt(f"{name}, read", lambda: weights.read(path, allow_pickle=True))
        refused = drill.attempt(f"{name}, load", lambda: weights.load(model, path))
        drill.expect(name, isinstance(refused, PlmError), "load read a pickle")
        if not isinstance(tensors, PlmError):
            answer = drill.attempt(f"{name}, load the tensors", lambda t=tensors: weights.load(model, t))
            if not isinstance(answer, PlmError):
                model.load_state_dict(own)
            drill.attempt(f"{name}, write", lambda t=tensors: weights.write(t, out))
            out.unlink(missing_ok=True)
        drill.expect(name, weights.fingerprint(model) == before, "half loaded")
        drill.expect(name, not marker.exists() and list(folder.iterdir()) == [path], "something was written")


@pytest.mark.trials(short=6, long=5000)
def test_convert_of_mutants(trials, drill, tmp_path):
    """A checkpoint of a model with flipped, cut and repeated bytes: a whole file, or none."""
    import timm

    rng, path, target = random.Random(trials), tmp_path / "x.pt", tmp_path / "out.safetensors"
    model = timm.create_model("test_vit", num_classes=3)
    good = [saved({"model": model.state_dict(), "args": argparse.Namespace(lr=1)}, **options) for options in OLD]
    small = [saved({"model": {"w": torch.ones(3)}, "args": argparse.Namespace(lr=1)}, **options) for options in OLD]
    for number in range(trials):
        data = bytearray(rng.choice(good if number % 10 == 0 else small))
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(800, len(data)))
            data[at : at + rng.choice([0, 1, 1, 9])] = rng.randbytes(rng.choice([0, 1, 1, 9]))
        path.write_bytes(data)
        target.unlink(missing_ok=True)
        done = drill.attempt(f"mutant {number}", partial(convert_file, path, target, model="test_vit"))
        if isinstance(done, PlmError):
            drill.expect(f"mutant {number}", not target.exists(), "a file in spite of the error")
        else:
            whole = drill.attempt(f"mutant {number}, read", lambda: weights.read(target))
            drill.expect(f"mutant {number}", whole.keys() == model.state_dict().keys(), "not the whole model")
        drill.expect(f"mutant {number}", len(list(tmp_path.iterdir())) <= 2, "litter")


OLD = ({}, {"_use_new_zipfile_serialization": False})
