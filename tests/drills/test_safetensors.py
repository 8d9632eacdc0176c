"""Hostile safetensors files, made by hand and by mutation: read, loaded, converted and checked for a push."""

import json
import random
import struct

import pytest
import torch
from torch import nn

from plm_core import hub, weights
from plm_core.errors import InputError, PlmError
from plm_core.tools.conversion import convert_file

NAMES = ("w\nplm: error: fake", "\x1b[31mred\x07", "n" * 100_000, "\u202e", "", "__metadata", "0.weight\0", "../../x")
NUMBERS = (-1, 0, 1, 2, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 2**64, 10**30, 1.5, None, "4", [], {}, True)
DTYPES = ("F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X9", "", None, 32)


class Small(nn.Sequential):
    """A model of seven tensors, one of them an integer."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the bytes of a file that fits `Small`."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    weights.save(Small(), path)
    return path.read_bytes()


def mutated_bytes(data, rng):
    """Return a file with bytes that are flipped, cut off, inserted, repeated or of another length."""
    data, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randint(1, 64))
    elif kind == 3:
        data[at:at] = data[rng.randrange(len(data)) :][:100]
    elif kind == 4:
        data[:8] = struct.pack("<Q", rng.choice([0, 1, 8, len(data), 2**32, 2**63, rng.randrange(1000)]))
    else:
        del data[at : at + rng.randint(1, 100)]
    return bytes(data)


def mutated_header(data, rng):
    """Return a file whose header says something else, in valid JSON."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    key = rng.choice([key for key in header if key != "__metadata__"])
    kind = rng.randrange(6)
    if kind == 0:
        header[rng.choice(NAMES)] = header.pop(key)
    elif kind == 1:
        header[key]["dtype"] = rng.choice(DTYPES)
    elif kind == 2:
        header[key]["shape"] = rng.choice([[], [0], [rng.choice(NUMBERS)], [2**62, 4], header[key]["shape"][::-1]])
    elif kind == 3:
        header[key]["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS)
    elif kind == 4:
        header["__metadata__"] = rng.choice([{}, {"a": 1}, {"format": "\x1b[2J"}, [], None, {"n" * 10_000: "v"}])
    else:
        header[key] = rng.choice([header.pop(key), *NUMBERS])
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + size :]


@pytest.mark.trials(short=150, long=20_000)
def test_mutants_of_a_file(trials, drill, good, tmp_path):
    path, model, rng = tmp_path / "model.safetensors", Small(), random.Random(trials)
    for number in range(trials):
        data = (mutated_header if number % 2 else mutated_bytes)(good, rng)
        path.write_bytes(data)
        case, before = f"mutant {number}", weights.fingerprint(model)
        tensors = drill.attempt(f"{case}, read", lambda: weights.read(path))
        loaded = drill.attempt(f"{case}, load", lambda: weights.load(model, path))
        if isinstance(loaded, PlmError):
            drill.expect(f"{case}, load", weights.fingerprint(model) == before, "half loaded")
        elif not isinstance(tensors, PlmError):
            own = model.state_dict()
            fits = all(torch.equal(own[k], v.to(own[k].dtype)) or v.isnan().any() for k, v in tensors.items())
            drill.expect(f"{case}, load", fits, "loaded something else")
        with torch.device("meta"):
            lazy = Small()
        if isinstance(drill.attempt(f"{case}, load on meta", lambda m=lazy: weights.load(m, path)), PlmError):
            drill.expect(case, all(t.is_meta for t in lazy.state_dict().values()), "half loaded on meta")


@pytest.mark.trials(short=6, long=500)
def test_mutants_in_a_folder(trials, drill, good, tmp_path, plm):
    """`plm convert` and the check of `plm push`: one line, and nothing is written."""
    folder, rng = tmp_path / "folder", random.Random(trials)
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "test_vit"}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for number in range(trials):
        data = (mutated_header if number % 2 else mutated_bytes)(good, rng)
        (folder / "model.safetensors").write_bytes(data)
        drill.attempt(f"mutant {number}, push", lambda: hub.check_folder(folder))
        target = tmp_path / "out.safetensors"
        done = drill.attempt(f"mutant {number}, convert", lambda t=target: convert_file(folder, t, model="test_vit"))
        drill.expect(f"mutant {number}", isinstance(done, PlmError) and not target.exists(), "a file of another model")
    drill.command("convert", plm("convert", folder, target, "--model", "test_vit"))


@pytest.mark.parametrize("name", NAMES)
def test_names_in_messages(name, tmp_path, drill):
    path, model = tmp_path / "model.safetensors", Small()
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for call in (lambda: weights.load(model, path), lambda: weights.load(model, weights.read(path))):
        error = drill.attempt(repr(name[:20]), call)
        drill.expect(repr(name[:20]), isinstance(error, PlmError) and not isinstance(error, InputError), repr(error))
