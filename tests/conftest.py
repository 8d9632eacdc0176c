"""Settings that must hold before anything is imported, and the data and the command that many tests share.

No test reaches the real Hub or writes to the user's folders.
"""

import gc
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each only wait for one another on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_home = tempfile.mkdtemp(prefix="plm-tests-")
os.environ.update(
    HF_HOME=f"{_home}/hf",
    HF_HUB_OFFLINE="1",  # the hub_double fixture opens a way to its own server
    HF_HUB_DISABLE_TELEMETRY="1",
    PLM_CACHE=f"{_home}/plm",
    TORCH_HOME=f"{_home}/torch",
    MPLBACKEND="Agg",
)
for switch in ("PLM_PLUGINS", "PLM_DISABLE_PLUGINS", "PLM_STRICT_PLUGINS", "PLM_TRACE_PLUGINS"):
    os.environ.pop(switch, None)


def pytest_configure(config):
    if "not gpu" in config.getoption("markexpr"):  # so that the default suite does the same on every machine
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def start_autograd():
    """Let autograd start while no device but the CPU is known to it.

    It starts threads otherwise, and then refuses to work in a fork. torch.export makes more devices known.
    """
    if torch := sys.modules.get("torch"):
        torch.ones(1, requires_grad=True).sum().backward()


gc.set_threshold(50_000, 20, 50)  # the compilers make millions of objects, few of them in circles
_seen = 0  # imported modules, the last time that they were counted


def spare_the_collector():
    """Spare the garbage collector the million objects of the imported libraries, which live as long as the tests."""
    global _seen
    _seen = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_collection_finish(session):
    start_autograd()
    spare_the_collector()


def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or nextitem.path != item.path or len(sys.modules) > _seen + 50:
        spare_the_collector()


def pytest_terminal_summary(terminalreporter):
    """Print what each drill (tests/drills) tried and how much of it was faulty."""
    reports = (report for group in terminalreporter.stats.values() for report in group)
    rows = {value for report in reports for key, value in getattr(report, "user_properties", ()) if key == "drill"}
    if rows:
        terminalreporter.section("drills: tried, faulty")
        for name, tried, faulty in sorted(rows):
            terminalreporter.line(f"{tried:7d} {faulty:4d}  {name}")


def pytest_sessionfinish(session):
    gc.unfreeze()  # else the bindings of libraries report leaks
    shutil.rmtree(_home, ignore_errors=True)


@dataclass
class Result:
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self):
        """The rows that a command prints into a pipe, without the line of headings."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]

    @property
    def scores(self):
        """The scores that ``plm train`` prints, by name."""
        return {name: float(score) for name, score, *_ in self.rows}


@pytest.fixture
def plm(monkeypatch, capfd):
    """Return a function that runs ``plm WORDS`` in this process."""
    from plm_core.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plm", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        return Result(code, *capfd.readouterr())

    return run


def _write_pictures(folder, split, each, classes):
    """Write ``each`` scenes of one shape for every class, in folders by shape."""
    from PIL import Image

    from plm_core import shapes

    left = dict.fromkeys(classes, each)
    for number, scene in enumerate(shapes.Images(split, size=48, count=1000, objects=(1, 1))):
        shape = scene.objects[0].shape
        if left.get(shape):
            left[shape] -= 1
            (folder / shape).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image).save(folder / shape / f"{number}.png")
        if not any(left.values()):
            return


@pytest.fixture(autouse=True)
def few_curves(request):
    """Leave the picture of a training empty, because it takes longer than most trainings, except in its own tests."""
    curve = sys.modules.get("plm_core.training.curve")
    with pytest.MonkeyPatch.context() as patch:
        if curve and request.path.name not in ("test_curve.py", "test_readmes.py"):
            patch.setattr(curve, "figure", lambda history, title: curve.plots.figure("", "", figsize=(1, 1)))
        yield


@pytest.fixture
def forked():
    """Return a function (call, *args) that starts a call in a fork of this process, which has all imports already.

    Both have one thread until the test ends: OpenMP's threads do not outlive a fork, and their number changes results.
    """
    import multiprocessing

    import torch

    if not hasattr(os, "fork"):
        pytest.skip("no process can be forked here")

    processes = []

    def start(call, *args):
        processes.append(multiprocessing.get_context("fork").Process(target=call, args=args))
        processes[-1].start()
        return processes[-1]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start
    torch.set_num_threads(threads)
    for process in processes:  # none that a failed test has left goes on
        process.kill()
        process.join()


@pytest.fixture
def full_disk_after():
    """Return a context manager (size) in which the kernel refuses to write beyond ``size`` bytes, as on a full disk."""
    import resource

    @contextmanager
    def limit(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Write train/ with 48 pictures and val/ with 9, in folders by shape; tests do not change them."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, name, each in (("train", "train", 16), ("heldout", "val", 3)):
        _write_pictures(folder / name, split, each, ("circle", "cross", "star"))
    return folder


def _write_video(path, frames):
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=25, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="session")
def write_video():
    """Return a function (path, frames uint8 [T, H, W, 3]) that writes a video without loss, at 25 frames a second."""
    return _write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory, write_video):
    """Write train/ with 8 videos of 32 frames and val/ with 4, in folders by motion; tests do not change them."""
    from plm_core import shapes

    folder = tmp_path_factory.mktemp("videos")
    for split, name, each in (("train", "train", 4), ("heldout", "val", 2)):
        left = dict.fromkeys(("left", "still"), each)
        for number, clip in enumerate(shapes.Clips(split, size=32, frames=32, count=1000, objects=(1, 1))):
            motion = ([event.motion for event in clip.events if event.motion != "still"] or ["still"])[0]
            if left.get(motion):
                left[motion] -= 1
                write_video(folder / name / motion / f"{number}.mp4", clip.frames)
            if not any(left.values()):
                break
    return folder


@pytest.fixture(scope="session")
def objects(tmp_path_factory):
    """Write train/ with 8 scenes of shapes and val/ with 4 in COCO's format; tests do not change them."""
    from hiera import coco

    folder = tmp_path_factory.mktemp("objects")
    coco.write_coco(coco.ShapesDetection("train", size=96, count=8), folder / "train")
    coco.write_coco(coco.ShapesDetection("heldout", size=96, count=4), folder / "val")
    return folder


@pytest.fixture(scope="session")
def captions(tmp_path_factory):
    """Write train/ with 16 scenes of shapes and val/ with 8, each with its caption; tests do not change them."""
    from plm_core.datasets.captions import write_shapes

    folder = tmp_path_factory.mktemp("captions")
    write_shapes(folder, train=16, val=8, size=48)
    return folder


@pytest.fixture(scope="session")
def video_captions(tmp_path_factory):
    """Write train/ with 8 clips of shapes and val/ with 4, each with its caption; tests do not change them."""
    from plm_core.datasets.captions import write_shapes

    folder = tmp_path_factory.mktemp("video_captions")
    write_shapes(folder, "videos", train=8, val=4, size=48, frames=4)
    return folder


@pytest.fixture(scope="session")
def conversations(tmp_path_factory):
    """Write 24 conversations to train on and 8 held-out ones, about scenes of shapes; tests do not change them.

    Every sixth is about two scenes, and every sixth is a text alone.
    """
    import json

    from PIL import Image

    from plm_core import shapes

    folder = tmp_path_factory.mktemp("conversations")
    for split, name, count in (("train", "train", 24), ("heldout", "validation", 8)):
        rows = []
        for number, scene in enumerate(shapes.Images(split, size=48, count=count, objects=(1, 1))):
            file = f"{name}{number}.png"
            Image.fromarray(scene.image).save(folder / file)
            question = {"from": "human", "value": "which shape is it?" if number % 6 else "say circle"}
            answer = {"from": "assistant", "value": scene.objects[0].shape if number % 6 else "circle"}
            row = {"conversations": [question, answer], **({"image": file} if number % 6 else {})}
            if number % 6 == 5:
                row["image"] = [file, f"{name}{number - 1}.png"]
                question["value"] = "<image> and <image>: which shape is first?"
            rows.append(row)
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def gaze_photos(tmp_path_factory):
    """Write a training split of 12 scenes and a test split of 6 in GazeFollow's format; tests do not change them."""
    from gazelle.data import write_gazefollow
    from plm_core.shapes import Gazes

    folder = tmp_path_factory.mktemp("gaze_photos")
    write_gazefollow(Gazes("train", size=64, count=12), folder, "train")
    write_gazefollow(Gazes("heldout", size=64, count=6), folder, "test")
    return folder


@pytest.fixture(scope="session")
def gaze_videos(tmp_path_factory):
    """Write a training split of 4 clips and a test split of 2 in VideoAttentionTarget's format."""
    from gazelle.data import write_vat
    from plm_core.shapes import GazeClips

    folder = tmp_path_factory.mktemp("gaze_videos")
    write_vat(GazeClips("train", size=64, count=4, frames=14), folder, "train")
    write_vat(GazeClips("heldout", size=64, count=2, frames=4), folder, "test")
    return folder


@pytest.fixture
def all_layers_gain(monkeypatch):
    """Let every layer be packed that can be, whatever is faster on this machine; return the products with them."""
    from plm_core.packing import layers, tuning

    products = []
    multiply = layers.multiply
    monkeypatch.setattr(tuning, "_faster", {})
    monkeypatch.setattr(tuning, "_share", lambda packed, plain, x: 0.5)
    monkeypatch.setattr(layers, "multiply", lambda *given: products.append(given) or multiply(*given))
    return products
