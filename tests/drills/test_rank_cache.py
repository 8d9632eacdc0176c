"""The cache of a ranking: damaged entries, two processes at once, and kill -9. The table is always the same."""

import os
import random
import shutil
import signal
import time
from functools import cache, partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from parc.ranking import Settings, evaluation, rank_models
from parc.ranking.cache import Cache, Key
from parc.scoring import Features

MODELS = ["hiera_micro_digits", "hiera_micro_shapes", "tome_micro_shapes"]
SETTINGS = Settings(methods=("parc", "knn"), budget=20, bootstraps=0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from plm_core import samples

    images, labels = samples.digits("heldout")
    root = tmp_path_factory.mktemp("digits")
    for digit in range(4):
        (root / str(digit)).mkdir()
        for i in np.flatnonzero(labels == digit)[:6]:
            images[i].save(root / str(digit) / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def loaded():
    """Each model is made once: what the drill tries is the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "make_model", cache(evaluation.make_model))
        yield


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table(digits):
    return [
        (row.model, row.method, row.score, row.rank, row.error) for row in rank_models(digits, MODELS, SETTINGS).rows
    ]


def entries(root):
    return sorted((root / "parc" / "features").rglob("*.safetensors"))


def cut(path, rng):
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randrange(len(whole))])


def flip(path, rng):
    whole = bytearray(path.read_bytes())
    whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(whole)


def lengthen(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 40)))


def garbage(path, rng):
    path.write_bytes(rng.randbytes(rng.randrange(200)))


def swap(path, rng):
    """Put the entry of another model in its place."""
    other = rng.choice([entry for entry in path.parents[2].rglob("*.safetensors") if entry.is_file() and entry != path])
    path.write_bytes(other.read_bytes())


def rewrite(path, rng):
    """Write the entry again with other values, and metadata that safetensors accepts."""
    tensors = load_file(path)
    name = rng.choice(list(tensors))
    change = rng.choice(["drop", "change", "retype", "reshape", "add"])
    if change == "drop":
        del tensors[name]
    elif change == "change":
        tensors[name] = tensors[name] + 1
    elif change == "retype":
        tensors[name] = tensors[name].astype(np.float16)
    elif change == "reshape":
        tensors[name] = tensors[name].reshape(-1)
    else:
        tensors["probs"] = np.ones((len(tensors["y"]), 3), np.float32)
    save_file(tensors, path, rng.choice([None, {"sha256": "0" * 64}, {"seconds": "nan"}]))


def folder(path, rng):
    path.unlink()
    (path / "a" / "b").mkdir(parents=True)


def dangling(path, rng):
    path.unlink()
    path.symlink_to("nowhere")


def litter(path, rng):
    """Leave what a killed process leaves: a part and a lock that nobody holds."""
    path.unlink()
    path.with_name(f".{path.name}.x.part").write_bytes(b"half")
    path.with_suffix(".lock").touch()


DAMAGES = [cut, flip, lengthen, garbage, swap, rewrite, folder, dangling, litter]


@pytest.mark.trials(short=45, long=9_000)
def test_damaged_entries(drill, trials, tmp_path):
    """Each kind of damage to one entry or to all: the same features, and a whole cache again."""
    rng, labels = random.Random(0), np.arange(20) % 3
    keys = [Key("w" * 64, f"{number:064}"[::-1], "d" * 64, 0) for number in range(3)]

    def contents():
        return [Cache(tmp_path).get(key, labels, partial(numbered, key)).features for key in keys]

    def numbered(key):
        numbers = np.random.default_rng(keys.index(key))
        return Features(numbers.normal(size=(20, 5)).astype(np.float32), numbers.random((20, 4)))

    right = contents()
    whole = {tmp_path / key.path: (tmp_path / key.path).read_bytes() for key in keys}
    for trial in range(trials):
        damage = DAMAGES[trial % len(DAMAGES)]
        for path in rng.sample(sorted(whole), rng.choice([1, len(whole)])):
            damage(path, rng)
        answer = drill.attempt(damage.__name__, contents)
        for features, expected, path in zip(answer, right, whole, strict=True):
            same = all(np.array_equal(getattr(features, n), getattr(expected, n)) for n in ("features", "probs"))
            drill.expect(damage.__name__, same, f"{features} instead of {expected}")
            sound = path.is_file() and load_file(path).keys() == {"features", "probs", "y"}
            drill.expect(damage.__name__, sound, f"{path.name} was not mended")


def in_a_fork(action):
    """Run ``action`` in a process of its own and return its id. No fresh interpreter has to import torch for this."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return pid


def features_of_key(number):
    rng = np.random.default_rng(number)
    return Features(rng.normal(size=(200, 300)), rng.random((200, 4)))


def fill(root, keys, log):
    """Get all keys as a ranking does, in an order of its own, and note each that was computed."""
    labels = np.arange(200) % 3
    for number in keys:

        def compute(number=number):
            with open(log, "a") as file:
                file.write(f"{number}\n")
            time.sleep(0.003)
            return features_of_key(number)

        found = Cache(root).get(Key("w" * 64, f"{number:064}"[::-1], "d" * 64, 0), labels, compute)
        if not np.array_equal(found.features.features, features_of_key(number).features):
            with open(log, "a") as file:
                file.write("wrong\n")


@pytest.mark.trials(short=3, long=200)
def test_processes_on_one_cache(drill, trials, tmp_path):
    """Two or more processes want the same keys: each is computed once, and read as it was written."""
    for trial in range(trials):
        rng = random.Random(trial)
        root, log = tmp_path / str(trial), tmp_path / f"{trial}.log"
        orders = [rng.sample(range(6), 6) for _ in range(rng.choice([2, 2, 4]))]
        pids = [in_a_fork(partial(fill, root, order, log)) for order in orders]
        for pid in pids:
            os.waitpid(pid, 0)
        computed = sorted(log.read_text().split())
        drill.expect(trial, computed == list("012345"), f"computed {computed}")


@pytest.mark.trials(short=4, long=400)
def test_kill_and_go_on(drill, trials, tmp_path):
    """Kill -9 while a cache is filled, at any moment, then go on: all right, nothing half written, nothing waits."""
    for trial in range(trials):
        rng = random.Random(trial)
        root, log = tmp_path / str(trial), tmp_path / f"{trial}.log"
        log.touch()
        pid = in_a_fork(partial(fill, root, range(6), log))
        time.sleep(rng.random() * 0.08)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        before = log.read_text().split()
        kept = len(list(root.rglob("*.safetensors")))
        began = time.monotonic()
        fill(root, range(6), log)
        computed = log.read_text().split()
        drill.expect(trial, time.monotonic() - began < 20, "it waited for a killed process")
        drill.expect(trial, "wrong" not in computed, "features are others")
        drill.expect(trial, len(computed) - len(before) == 6 - kept, f"computed {computed} after {before}, kept {kept}")
        drill.expect(trial, len(list(root.rglob("*.safetensors"))) == 6, "entries are missing")
        drill.expect(trial, not list(root.rglob(".*.part")), "a part is left")


@pytest.mark.slow
@pytest.mark.parametrize("trials", [40])
def test_whole_rankings(drill, trials, digits, root, loaded):
    """Kill -9 of a ranking, or damage to its cache, then the same command: the same table."""
    right = table(digits)
    for trial in range(trials):
        rng = random.Random(trial)
        if trial % 2:
            for path in entries(root):
                rng.choice(DAMAGES)(path, rng)
        else:
            shutil.rmtree(root)
            pid = in_a_fork(lambda: (torch.set_num_threads(1), table(digits)))
            time.sleep(rng.random() * 3)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        answer = drill.attempt(trial, lambda: table(digits))
        same = [row[:2] + row[3:] for row in answer] == [row[:2] + row[3:] for row in right]
        drill.expect(trial, same, f"{answer} instead of {right}")
        scores = [row[2] for row in answer], [row[2] for row in right]
        drill.expect(trial, np.allclose(*scores, rtol=1e-4), f"{answer} instead of {right}")  # threads round in turn
        drill.expect(trial, len(entries(root)) == len(MODELS), "entries are missing")
