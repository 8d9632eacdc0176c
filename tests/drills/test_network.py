"""A Hub that drops, cuts, stalls and lies: whole files, or one line in seconds; nothing broken stays in the cache."""

import hashlib
import logging
import multiprocessing
import random
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

import plm_core
from plm_core import hub, weights
from plm_core.hub import HubFile
from plm_core.utils import network

pytestmark = pytest.mark.timeout(1800)  # at full length
REPO = "org/name"
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
REDIRECT = b"HTTP/1.1 307 Temporary Redirect\r\nConnection: close\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n"
GARBAGE = (
    *(
        b"",
        b"\r\n\r\n",
        b"garbage",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/9.9 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ),
    *(
        HEAD + b"\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: 99\r\n\r\n",
        HEAD + b'ETag: "../../x"\r\n\r\n',
    ),
    *(HEAD + b'X-Repo-Commit: ../../../x\r\nETag: "a"\r\nContent-Length: 0\r\n\r\n', HEAD + b"\x00: \xff\r\n\r\n"),
    *(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", b"HTTP/1.1 204 No Content\r\n\r\n"),
    *(
        REDIRECT % place
        for place in (b"/loop", b"http://127.0.0.1:9/x", b"gopher://x", b"", b"//", b"http://[", b"file:///etc/passwd")
    ),
    *(
        b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
        for status in (100, 206, 304, 400, 402, 451, 599)
    ),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    weights.save_pretrained(plm_core.create_model("test_vit", num_classes=2), folder, "mit")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def impatient(monkeypatch):
    """Wait no longer than a test may."""
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.utils._http.time", Clock())
    monkeypatch.setattr("huggingface_hub.file_download.time", Clock())
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "disabled", True)


class Clock:
    """The module ``time`` for huggingface_hub, without its pauses."""

    sleep = staticmethod(lambda seconds: None)

    def __getattr__(self, name):
        return getattr(time, name)


def break_it(double, rng):
    """Set one to three faults, for some or all of the next requests."""
    double.heal()
    for fault in rng.sample(("drop", "fail", "truncate", "delay", "gated"), k=rng.choice((1, 1, 2))):
        times = rng.choice((1, 2, 3, None))
        if fault == "drop":
            double.drop(times, rng.choice(GARBAGE), hold=rng.choice((0, 0, 0, 0.3)), reset=rng.random() < 0.3)
        elif fault == "fail":
            double.fail(rng.choice((400, 401, 403, 404, 408, 416, 418, 429, 500, 502, 503, 504)), times)
        elif fault == "truncate":
            double.truncate(rng.choice(hub.MODEL_FILES), rng.randrange(5000), times, silent=rng.random() < 0.5)
        elif fault == "delay" and rng.random() < 0.2:
            double.delay = 0.3
        double.repos[REPO].gated = fault == "gated"


@pytest.mark.trials(short=20, long=500)
def test_downloads(drill, trials, files, hub_double, impatient, tmp_path):
    rng = random.Random(21)
    hub_double.add(REPO, files)
    digests = {hashlib.sha256(content).digest() for content in files.values()}
    for number in range(trials):
        cache = tmp_path / "a" / "b" / f"cache{number if rng.random() < 0.8 else 0}"
        break_it(hub_double, rng)
        file = HubFile(REPO, file=rng.choice(hub.MODEL_FILES))
        path = drill.attempt(f"{number}", lambda: hub.fetch(file, cache))  # noqa: B023 (called at once)
        if isinstance(path, Path):
            drill.expect(f"{number}", path.read_bytes() == files[file.file], "another content")
        kept = [blob for blob in cache.rglob("blobs/*") if blob.is_file() and blob.suffix != ".incomplete"]
        drill.expect(
            f"{number}", all(hashlib.sha256(x.read_bytes()).digest() in digests for x in kept), "a broken file is kept"
        )
        drill.expect(f"{number}", not constants.HF_HUB_OFFLINE, "left offline")
    outside = [path for path in tmp_path.rglob("x") if not path.match("a/b/cache*/**/x")]
    drill.expect("writes", not outside, "a file outside of the cache")


@pytest.mark.trials(short=3, long=90)
def test_commands(drill, trials, files, hub_double, impatient, plm, tmp_path, monkeypatch):
    """``plm predict hf-hub:`` with a cold or a warm cache, and ``plm push``."""
    from PIL import Image

    rng = random.Random(22)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "model").mkdir()
    for name, content in files.items():
        (tmp_path / "model" / name).write_bytes(content)
    for number in range(trials):
        hub_double.add(REPO, files | ({"README.md": b"%d" % number} if rng.random() < 0.3 else {}))
        break_it(hub_double, rng)
        words = ("predict", f"hf-hub:{REPO}", tmp_path / "x.png")
        if number % 3 == 2:
            words = ("push", tmp_path / "model", REPO)
        result = drill.command(f"{number}: {words[0]}", plm(*words))
        lines = [line for line in result.err.splitlines() if line.startswith("plm: error")]
        drill.expect(f"{number}: {words[0]}", len(lines) <= 1, f"{len(lines)} lines of errors")


def download(cache, start, answers):
    start.wait()
    try:
        answers.put(hub.fetch(HubFile(REPO), cache).read_bytes())
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.trials(short=1, long=15)
def test_two_processes_download_first(drill, trials, files, hub_double, tmp_path):
    """Processes that want the same file at once into one empty cache each get it whole."""
    hub_double.add(REPO, files)
    fork = multiprocessing.get_context("fork")  # a fresh interpreter would take seconds
    for number in range(trials):
        hub_double.delay = 0.02
        start, answers = fork.Barrier(3), fork.Queue()
        workers = [fork.Process(target=download, args=(tmp_path / str(number), start, answers)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for _ in workers:
            answer = answers.get(timeout=60)
            drill.expect(f"{number}", answer == files["model.safetensors"], f"got {answer[:200]!r}")
        for worker in workers:
            worker.join(timeout=10)
            drill.expect(f"{number}", worker.exitcode == 0, f"exit {worker.exitcode}")
