"""The cache of features: processes share it, files are never half written, and errors do not stop a ranking."""

import errno
import logging
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from parc.ranking.cache import Cache, CacheEntry, Key, read_entry, write_entry
from parc.scoring import Features

KEY = Key("w" * 64, "t" * 64, "d" * 64, 0)
LABELS = np.array([0, 1, 0, 1])


def features(seed=0):
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(4, 3)).astype(np.float32), rng.random((4, 2)).astype(np.float32))


def forbidden():
    pytest.fail("computed again")


def test_computed_once_and_found_after(tmp_path):
    first = Cache(tmp_path).get(KEY, LABELS, features)
    again = Cache(tmp_path).get(KEY, LABELS, forbidden)
    assert (first.cached, again.cached) == (False, True)
    assert again.seconds == first.seconds > 0
    for name in ("features", "probs"):
        np.testing.assert_array_equal(getattr(again.features, name), getattr(first.features, name))
        assert getattr(again.features, name).dtype == np.float32


def test_a_headless_model_has_no_probabilities(tmp_path):
    Cache(tmp_path).get(KEY, LABELS, lambda: Features(features().features))
    assert Cache(tmp_path).get(KEY, LABELS, forbidden).features.probs is None


def test_every_part_of_the_key_counts(tmp_path):
    changes = ({"weights": "x" * 64}, {"preprocess": "x" * 64}, {"dataset": "x" * 64}, {"run": 1})
    keys = [KEY, *(replace(KEY, **change) for change in changes)]
    assert not any(Cache(tmp_path).get(key, LABELS, features).cached for key in keys)
    assert str(KEY.path) == f"features/{'w' * 32}/{'t' * 16}/{'d' * 16}-0.safetensors"


def test_the_default_is_the_cache_folder_of_plm_core(tmp_path, monkeypatch):
    monkeypatch.setenv("PLM_CACHE", str(tmp_path))
    Cache().get(KEY, LABELS, features)
    assert (tmp_path / "parc" / KEY.path).is_file()


def test_switched_off(tmp_path):
    off = Cache(tmp_path, enabled=False)
    assert not off.get(KEY, LABELS, features).cached
    assert not off.get(KEY, LABELS, features).cached
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-5],
        lambda whole: whole[:20],
        lambda whole: b"",
        lambda whole: b"\xff" * len(whole),
        lambda whole: whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:],  # one bit of a tensor
    ],
)
def test_a_corrupt_entry_is_computed_again_and_said(tmp_path, caplog, damage):
    Cache(tmp_path).get(KEY, LABELS, features)
    path = tmp_path / KEY.path
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "parc"):
        entry = Cache(tmp_path).get(KEY, LABELS, features)
    assert not entry.cached
    assert caplog.text.count(f"cache entry {path} cannot be used") == 1
    np.testing.assert_array_equal(Cache(tmp_path).get(KEY, LABELS, forbidden).features.features, features().features)


def rewritten(path, **changes):
    """Write an entry again with other metadata, as sound as safetensors can tell."""
    with safe_open(path, "numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path.write_bytes(save({k: v for k, v in tensors.items() if k not in changes}, metadata | changes))


def into_a_folder(path):
    path.unlink()
    (path / "more").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: rewritten(path, seconds="soon"),
        lambda path: rewritten(path, seconds="1.5"),
        lambda path: rewritten(path, y=""),
        lambda path: rewritten(path, features=""),
        lambda path: rewritten(path, probs=""),
        lambda path: rewritten(path, sha256="0"),
        into_a_folder,
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
    ],
)
def test_an_entry_that_is_not_as_it_was_written_is_mended(tmp_path, damage):
    Cache(tmp_path).get(KEY, LABELS, features)
    damage(tmp_path / KEY.path)
    assert not Cache(tmp_path).get(KEY, LABELS, features).cached
    np.testing.assert_array_equal(Cache(tmp_path).get(KEY, LABELS, forbidden).features.probs, features().probs)


@pytest.mark.parametrize("part", ["weights", "preprocess", "dataset", "run"])
def test_an_entry_of_another_key_is_not_used(tmp_path, part):
    """Whatever lies under the name of a key: the whole key is in the digest, not the part that is in the name."""
    old = getattr(KEY, part)
    other = replace(KEY, **{part: old[:-1] + "x" if isinstance(old, str) else old + 1})
    Cache(tmp_path).get(other, LABELS, lambda: features(1))
    (tmp_path / other.path).rename(tmp_path / KEY.path)
    assert not Cache(tmp_path).get(KEY, LABELS, features).cached
    np.testing.assert_array_equal(Cache(tmp_path).get(KEY, LABELS, forbidden).features.features, features().features)


def test_an_entry_of_other_labels_is_not_used(tmp_path, caplog):
    Cache(tmp_path).get(KEY, LABELS, features)
    assert not Cache(tmp_path).get(KEY, LABELS[::-1].copy(), features).cached
    assert "its labels are others" in caplog.text


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    path = tmp_path / KEY.path
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.abc.part").write_bytes(b"half")
    Cache(tmp_path).get(KEY, LABELS, features)
    assert sorted(p.suffix for p in path.parent.iterdir()) in ([".safetensors"], [".lock", ".safetensors"])


def test_an_error_leaves_nothing_and_frees_the_lock(tmp_path):
    def fails():
        raise RuntimeError("model failed")

    with pytest.raises(RuntimeError, match="model failed"):
        Cache(tmp_path).get(KEY, LABELS, fails)
    assert not (tmp_path / KEY.path).exists()
    assert not Cache(tmp_path).get(KEY, LABELS, features).cached


class TestNoRoom:
    """If the cache cannot be written, features are computed without it, and one warning says so."""

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
    def test_goes_on_and_says_so_once(self, tmp_path, caplog, monkeypatch, code):
        def refuse(path, data):
            path.open("wb").write(data[:10])
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "write_bytes", refuse)
        cache = Cache(tmp_path)
        with caplog.at_level(logging.WARNING, "parc"):
            for run in range(3):
                entry = cache.get(Key("w", "t", "d", run), LABELS, features)
                np.testing.assert_array_equal(entry.features.features, features().features)
        assert caplog.text.count("features are not kept, so nothing can be resumed") == 1
        assert os.strerror(code) in caplog.text
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]

    def test_a_root_that_cannot_be_made(self, tmp_path, monkeypatch, caplog):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("PLM_CACHE", str(tmp_path / "file"))
        assert not Cache().get(KEY, LABELS, features).cached
        assert "features are not kept" in caplog.text

    def test_a_lock_that_cannot_be_had(self, tmp_path, caplog):
        (tmp_path / "features").write_text("a file where a folder should be")
        assert not Cache(tmp_path).get(KEY, LABELS, features).cached
        assert "features are not kept" in caplog.text


def _slowly(root, count, barrier):
    def compute():
        with count.get_lock():
            count.value += 1
        time.sleep(0.5)
        return features()

    barrier.wait()
    entry = Cache(root).get(KEY, LABELS, compute)
    assert np.array_equal(entry.features.features, features().features)


def test_two_processes_compute_a_key_once(tmp_path):
    context = multiprocessing.get_context("fork")
    count, barrier = context.Value("i", 0), context.Barrier(2)
    processes = [context.Process(target=_slowly, args=(tmp_path, count, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert count.value == 1


def test_waiting_for_another_is_said(tmp_path, caplog):
    began, go_on = threading.Event(), threading.Event()

    def slow():
        began.set()
        assert go_on.wait(20)
        return features()

    other = threading.Thread(target=Cache(tmp_path).get, args=(KEY, LABELS, slow))
    other.start()
    assert began.wait(20)
    threading.Timer(0.3, go_on.set).start()
    with caplog.at_level(logging.WARNING, "parc"):
        assert Cache(tmp_path).get(KEY, LABELS, forbidden).cached
    other.join(20)
    assert "another process computes" in caplog.text


def test_two_at_once_never_read_half_a_file(tmp_path):
    """A reader that polls while entries are replaced only reads complete ones."""
    path = tmp_path / "entry.safetensors"
    wide = Features(np.random.default_rng(0).normal(size=(4, 20000)).astype(np.float32))
    write_entry(path, KEY, CacheEntry(wide, 1.0, False), LABELS)
    done = threading.Event()

    def rewrite():
        for _ in range(30):
            write_entry(path, KEY, CacheEntry(wide, 1.0, False), LABELS)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    reads = 0
    while not done.is_set():
        np.testing.assert_array_equal(read_entry(path, KEY, LABELS).features.features, wide.features)
        reads += 1
    writer.join()
    assert reads > 0
