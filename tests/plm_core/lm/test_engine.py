"""The data engine from files to rows: provenance, failures, kill and resume, Ray, and the command line."""

import json
import os
import pickle
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from plm_core import InputError, PlmError, lm
from plm_core.hookspecs import Model
from plm_core.lm.assistant import Assistant
from plm_core.lm.data import check_data, open_rows
from plm_core.lm.engine import LocalModel, Prompts, SceneSettings, WorkerError, make, ray_backend
from plm_core.lm.engine.running import PATIENCE
from plm_core.lm.media import MediaSettings
from plm_core.lm.micro.tokenizer import word_tokenizer
from plm_core.lm.processor import Processor
from plm_core.registry import registry

WORDS = ["is", "it", "a", "red", "blue", "green", "star", "what", "where", "frames", "in", *"[](),.:?0123456789"]
MICRO = "plm_micro_shapes"
EACH = SceneSettings(seconds=None)
PAIRS = [{"question": "what is it?", "answer": "a star"}, {"question": "is it red?", "answer": "no"}]


class Seeing:
    """A captioner of tests. It tells the mean level and the number of frames of what it sees, and keeps its calls."""

    name = "seeing"

    def __init__(self, fails=()):
        self.calls = []
        self.fails = list(fails)

    def __call__(self, items, prompt):
        self.calls.append((len(items), prompt))
        if self.fails and self.fails.pop(0):
            raise RuntimeError("out of memory")
        return [self.tell(item) for item in items]

    def tell(self, item):
        if isinstance(item, Image.Image):
            assert item.mode == "RGB"
            return f"an image of level {np.array(item).mean():.0f}"
        assert item.dtype == torch.uint8
        return f"{len(item)} frames of level {item.float().mean():.0f}"


class Writing:
    """A writer of tests, which keeps what it is asked."""

    name = "writing"

    def __init__(self, *replies):
        self.asked = []
        self.replies = list(replies)

    def __call__(self, prompts):
        self.asked += prompts
        return [self.replies.pop(0) if self.replies else self.reply(prompt) for prompt in prompts]

    def reply(self, prompt):
        return f"Sure: {json.dumps(PAIRS)}" if "JSON" in prompt else f"merged of {prompt.count('level')}"


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def checked(path):
    """The kinds of rows of a file, in which nothing is wrong."""
    report = check_data(path, media=True)
    assert not report.faults
    return report.datasets[0].kinds


@pytest.fixture
def folder(tmp_path):
    """Three images of levels 50, 100 and 150."""
    for number in (1, 2, 3):
        Image.new("RGB", (40, 30), (50 * number,) * 3).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def film(write_video, tmp_path):
    """A video of three scenes of one second each."""
    path = tmp_path / "film.mp4"
    write_video(
        path,
        np.repeat(np.array([20, 120, 220], np.uint8), 25)[:, None, None, None] + np.zeros((1, 32, 48, 3), np.uint8),
    )
    return path


# --- rows --------------------------------------------------------------------------------------------------------


def test_images_become_captions_and_questions(folder):
    out = folder / "data.jsonl"
    writer = Writing()
    files = {folder / "1.png": "it says EXIT", folder / "2.png": "", folder / "3.png": ""}
    report = make(files, out, captioner=Seeing(), writer=writer, questions=2)
    assert report.rows == {"captions": 3, "questions": 6}
    assert not report.failed
    assert checked(out) == {"image": 6, "caption": 3}
    caption, question, _, *_ = rows_of(out)
    assert caption == {
        "image": "1.png",
        "text": "an image of level 50",
        "id": "1.png",
        "metadata": {"synthetic": True, "captioner": "seeing"},
    }
    assert question["conversations"] == [
        {"from": "human", "value": "<image>\nwhat is it?"},
        {"from": "assistant", "value": "a star"},
    ]
    assert question["metadata"]["writer"] == "writing"
    assert ["EXIT" in asked for asked in writer.asked] == [True, False, False]
    assert all("level" in asked and "2 different" in asked for asked in writer.asked)


def test_a_video_becomes_merged_captions_of_its_scenes(film):
    out = film.parent / "sub" / "data.jsonl"
    captioner, writer = Seeing(), Writing()
    report = make(
        [film],
        out,
        captioner=captioner,
        video_captioner=captioner,
        merge=writer,
        writer=writer,
        questions=1,
        scenes=EACH,
        frames=4,
    )
    assert report.rows == {"captions": 3, "questions": 3}
    assert checked(out) == {"video": 3, "caption": 3}
    captions = [row for row in rows_of(out) if "text" in row]
    assert [(row["start_time"], row["end_time"]) for row in captions] == [(0, 0.96), (1, 1.96), (2, 2.96)]
    assert captions[1]["video"] == film.as_posix(), "a file elsewhere has its whole path"
    assert captions[1]["text"] == "merged of 2"
    assert captions[1]["metadata"] == {
        "synthetic": True,
        "captioner": "seeing",
        "video_captioner": "seeing",
        "merged": True,
        "merge": "writing",
        "frames": [[1.48, "an image of level 120"]],
        "clip": ["4 frames of level 120"],
    }
    assert "Whole clip: 4 frames of level 20\nFrame at 0.5 s: an image of level 20" in writer.asked[0]
    assert captioner.calls == [(3, Prompts().frame), (3, Prompts().video)], "one call for all scenes"
    (question,) = [row for row in rows_of(out) if row.get("start_time") == 1 and "text" not in row]
    assert question["conversations"][0]["value"] == "<video>\nwhat is it?"
    assert question["metadata"]["caption"] == captions[1]["id"]


def test_without_a_writer_descriptions_are_not_merged_and_the_row_says_so(film):
    out = film.parent / "data.jsonl"
    make([film], out, captioner=Seeing(), video_captioner=Seeing(), scenes=EACH, frames=5)
    row = rows_of(out)[2]
    assert row["video"] == "film.mp4"
    assert row["text"] == "5 frames of level 220\nan image of level 220"
    assert row["metadata"]["merged"] is False
    assert "merge" not in row["metadata"]
    alone = film.parent / "alone.jsonl"
    writer = Writing()
    make([film], alone, video_captioner=Seeing(), merge=writer)
    (row,) = rows_of(alone)
    assert row["text"].startswith("32 frames")
    assert row["metadata"]["merged"] is False, "there is nothing to merge"
    assert not writer.asked


def test_large_frames_are_shrunk(write_video, tmp_path):
    sizes = []

    def captioner(items, prompt):
        sizes.extend(item.size if isinstance(item, Image.Image) else tuple(item.shape[1:3]) for item in items)
        return ["a star"] * len(items)

    write_video(tmp_path / "large.mp4", np.zeros((5, 1000, 2000, 3), np.uint8))
    make([tmp_path / "large.mp4"], tmp_path / "a.jsonl", captioner=captioner, video_captioner=captioner)
    assert sizes == [(1344, 672), (224, 448)]


def test_folders_and_files_named_twice(folder, film):
    report = make([folder, folder / "1.png"], folder / "data.jsonl", captioner=Seeing(), batch_size=2)
    assert report.items == 4
    assert [row.get("image", row.get("video")) for row in rows_of(report.out)] == [
        "1.png",
        "2.png",
        "3.png",
        "film.mp4",
    ]
    assert len(open_rows(report.out)) == 4


def test_a_real_model_writes_rows(film, folder):
    tokenizer = word_tokenizer(WORDS)
    config = {
        "vision_config": {
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": [28, 28], "init_values": 0.1},
        },
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
        },
        "projector_pooling_ratio": 2,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
    }
    torch.manual_seed(3)
    model = lm.build(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    settings = MediaSettings(size=28, tokens=1, max_tiles=4, max_frames=4)
    local = LocalModel(Assistant(model, Processor(tokenizer, settings, max_length=100)), max_new_tokens=5)
    prompts = Prompts(image="what is it?", frame="what is it?", video="what is in frames?")
    report = make(
        [folder],
        folder / "data.jsonl",
        captioner=local.caption,
        video_captioner=local.caption,
        prompts=prompts,
        scenes=EACH,
        batch_size=2,
    )
    assert not report.failed
    assert checked(report.out) == {"caption": 6}
    rows = rows_of(report.out)
    assert rows[0]["text"] == local.caption([Image.open(folder / "1.png")], "what is it?")[0].strip()
    assert len({row["text"] for row in rows}) > 1, "the pictures matter"
    assert rows[0]["metadata"]["captioner"] == "an assistant in memory"


def test_the_micro_model_describes_its_world(tmp_path):
    """Only a trained model names the shapes of held-out pictures."""
    if not registry().get(Model, MICRO).pretrained:
        pytest.skip(f"needs the weights of the micro model {MICRO}, which do not ship yet")
    from plm_core.lm.shapes_data import write_questions

    write_questions(tmp_path, "heldout", pictures=12, clips=1)
    local = LocalModel(MICRO, device="cpu")
    prompts = Prompts(image="list the shapes from left to right.")
    make([tmp_path / "images"], tmp_path / "made.jsonl", captioner=local.caption, prompts=prompts)
    told = {row["image"]: row["text"] for row in rows_of(tmp_path / "made.jsonl")}
    right = {row["image"]: row["text"] for row in rows_of(tmp_path / "caption.jsonl") if "image" in row}
    assert right.keys() <= told.keys()
    assert sum(told[name] == text for name, text in right.items()) >= len(right) / 2


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_reply_that_is_no_list_is_kept_counted_and_asked_again(folder):
    out = folder / "data.jsonl"
    captioner = Seeing()
    writer = Writing("I cannot help with that.", WorkerError("too slow"))
    report = make([folder], out, captioner=captioner, writer=writer, questions=2)
    assert report.failed == {
        "1.png pairs": "the reply has no JSON list of objects with question and answer",
        "2.png pairs": "too slow",
    }
    assert report.rows == {"captions": 3, "questions": 2}
    journal = rows_of(folder / "data.jsonl.work" / "journal.jsonl")
    assert [row["reply"] for row in journal if "reply" in row] == ["I cannot help with that."]
    calls = len(writer.asked), len(captioner.calls)
    report = make([folder], out, captioner=captioner, writer=writer, questions=2, resume=True)
    assert (len(writer.asked) - calls[0], len(captioner.calls) - calls[1]) == (2, 0)
    assert (report.resumed, report.failed) == (1, {})
    assert report.rows == {"captions": 3, "questions": 6}
    assert checked(out) == {"image": 6, "caption": 3}


def test_each_stage_of_a_scene_is_done_once(film):
    out = film.parent / "data.jsonl"
    captioner, clips = Seeing(), Seeing(fails=[True])
    options = {"captioner": captioner, "video_captioner": clips, "scenes": EACH}
    report = make([film], out, merge=Writing(), **options)
    assert len(report.failed) == 3
    assert all(error == "seeing fails: RuntimeError: out of memory" for error in report.failed.values())
    assert report.rows == {}
    report = make([film], out, merge=Writing("", "fine"), resume=True, **options)
    assert list(report.failed.values()) == ["the reply is empty"]
    assert report.rows == {"captions": 2}
    captioner.calls.clear()
    report = make([film], out, merge=Writing(), resume=True, **options)
    assert not captioner.calls, "what the captioners said is kept"
    assert [row["text"] for row in rows_of(out)] == ["merged of 2", "fine", "merged of 2"]


def test_captions_with_marks_are_refused(folder):
    report = make([folder / "1.png"], folder / "a.jsonl", captioner=lambda items, prompt: ["see <image>"])
    assert report.failed == {"1.png caption": "the reply has the mark <image>"}
    assert report.out.read_text() == ""


def test_files_that_cannot_be_read_are_named_and_left_out(folder, film, one_line):
    (folder / "0.jpg").write_bytes(b"\xff\xd8 no image")
    (folder / "a.mp4").write_bytes(film.read_bytes()[:300])
    report = make([folder], folder / "data.jsonl", captioner=Seeing())
    assert set(report.unreadable) == {"0.jpg", "a.mp4"}
    assert "a.mp4" in report.unreadable["a.mp4"]
    assert report.rows == {"captions": 4}
    with one_line(InputError, "more than max_bad=1 files cannot be read; the last one is 0.jpg"):
        make([folder], folder / "strict.jsonl", captioner=Seeing(), max_bad=1)
    assert len(rows_of(folder / "strict.jsonl")) == 1, "what was finished is written"
    Image.new("RGB", (9, 9)).save(folder / "0.jpg")
    report = make([folder], folder / "data.jsonl", captioner=Seeing(), resume=True)
    assert (set(report.unreadable), report.rows) == ({"a.mp4"}, {"captions": 5})


def test_a_captioner_that_always_fails_ends_the_run(folder, one_line):
    for number in range(PATIENCE + 5):
        Image.new("RGB", (9, 9)).save(folder / f"more{number}.png")
    captioner = Seeing(fails=[True] * 100)
    with one_line(PlmError, f"{PATIENCE} texts failed one after the other", "out of memory"):
        make([folder], folder / "data.jsonl", captioner=captioner, batch_size=4)
    assert len(captioner.calls) == 5
    with one_line(InputError, "gives 1 texts for 4 items"):
        make([folder], folder / "b.jsonl", captioner=lambda items, prompt: ["one"], batch_size=4)


# --- resuming ----------------------------------------------------------------------------------------------------


def make_until_killed(folder):
    """Make captions one by one, and be killed within the third."""
    captioner = Seeing()

    def dying(items, prompt):
        if len(captioner.calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return captioner(items, prompt)

    dying.name = captioner.name
    make([folder], folder / "data.jsonl", captioner=dying, batch_size=1)


def test_a_killed_run_goes_on_where_it_was(folder, forked):
    process = forked(make_until_killed, folder)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    out = folder / "data.jsonl"
    assert not out.exists(), "rows are written at the end"
    journal = folder / "data.jsonl.work" / "journal.jsonl"
    assert len(rows_of(journal)) == 2
    with open(journal, "a") as file:
        file.write('{"item": "3.png", "st')  # as a kill within a write leaves it
    captioner = Seeing()
    report = make([folder], out, captioner=captioner, batch_size=1, resume=True)
    assert len(captioner.calls) == 1
    assert (report.resumed, report.rows) == (2, {"captions": 3})
    assert [row["text"] for row in rows_of(out)] == [f"an image of level {level}" for level in (50, 100, 150)]


def test_an_interrupted_run_writes_what_is_finished(folder):
    def captioner(items, prompt):
        if np.array(items[0]).max() > 90:
            raise KeyboardInterrupt
        return ["a star"]

    out = folder / "data.jsonl"
    with pytest.raises(KeyboardInterrupt):
        make([folder], out, captioner=captioner, batch_size=1)
    assert [row["image"] for row in rows_of(out)] == ["1.png"]


def test_files_are_added_and_changed_ones_done_again(folder):
    out = folder / "data.jsonl"
    make([folder / "1.png", folder / "2.png"], out, captioner=Seeing())
    Image.new("RGB", (41, 30), (7, 7, 7)).save(folder / "1.png")
    captioner = Seeing()
    report = make([folder / "3.png", folder / "1.png"], out, captioner=captioner, resume=True)
    assert captioner.calls == [(2, Prompts().image)]
    assert report.rows == {"captions": 3}
    assert [row["text"].split()[-1] for row in rows_of(out)] == ["150", "7", "100"], "the others follow"


def test_a_file_that_is_again_as_it_was_has_its_rows_again(folder):
    file, out = folder / "1.png", folder / "data.jsonl"
    before, times = file.read_bytes(), file.stat()
    make([file], out, captioner=Seeing())
    Image.new("RGB", (9, 9)).save(file)
    make([file], out, captioner=Seeing(), resume=True)
    assert rows_of(out)[0]["text"] == "an image of level 0"
    file.write_bytes(before)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    report = make([file], out, captioner=Seeing(), resume=True)
    assert (report.resumed, [row["text"] for row in rows_of(out)]) == (1, ["an image of level 50"])


def test_questions_are_added_later(folder, one_line):
    out = folder / "data.jsonl"
    make([folder], out, captioner=Seeing())
    captioner, options = Seeing(), {"questions": 1, "resume": True}
    report = make([folder], out, captioner=captioner, writer=Writing(), **options)
    assert (captioner.calls, report.rows) == ([], {"captions": 3, "questions": 3})
    with one_line(InputError, "was begun with writer 'writing', now it is 'seeing'"):
        make([folder], out, captioner=captioner, writer=Seeing(), **options)
    report = make([folder], out, captioner=captioner, resume=True)
    assert (report.resumed, report.rows) == (3, {"captions": 3, "questions": 3}), "none is lost without a writer"
    assert rows_of(out)[1]["metadata"]["writer"] == "writing"


def test_runs_do_not_mix(folder, one_line):
    out = folder / "data.jsonl"
    make([folder], out, captioner=Seeing())
    before = out.read_bytes()
    with one_line(InputError, "data.jsonl' exists; resume goes on from there, or name another file"):
        make([folder], out, captioner=Seeing())
    with one_line(InputError, "was begun with captioner 'seeing', now it is 'writing'"):
        make([folder], out, captioner=Writing(), resume=True)
    with one_line(InputError, "was begun with prompt image"):
        make([folder], out, captioner=Seeing(), prompts=Prompts(image="what?"), resume=True)
    (folder / "other.jsonl").write_text("mine")
    with one_line(InputError, "other.jsonl' exists, and 'other.jsonl.work'"):
        make([folder], folder / "other.jsonl", captioner=Seeing(), resume=True)
    journal = folder / "data.jsonl.work" / "journal.jsonl"
    journal.write_text('{"item": "1.png"}\n')
    with one_line(InputError, "line 1", "is no result"):
        make([folder], out, captioner=Seeing(), resume=True)
    assert out.read_bytes() == before


def test_only_one_run_writes_a_file(folder, one_line):
    from plm_core.lm.engine.journal import Journal

    with (
        Journal(folder / "data.jsonl", {}, resume=False),
        one_line(InputError, "another process writes"),
        Journal(folder / "data.jsonl", {}, resume=True),
    ):
        pass


def test_a_full_disk_keeps_what_was_finished(folder, full_disk_after, one_line):
    out = folder / "data.jsonl"
    long = lambda items, prompt: ["a star " * 3000] * len(items)  # noqa: E731
    with full_disk_after(30_000), one_line(PlmError, "journal.jsonl"):
        make([folder], out, captioner=long, batch_size=1)
    journal = folder / "data.jsonl.work" / "journal.jsonl"
    assert [row["item"] for row in rows_of(journal)] == ["1.png"]
    report = make([folder], out, captioner=long, batch_size=1, resume=True)
    assert (report.resumed, report.rows) == (1, {"captions": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "1.png is an image, and there is no captioner"),
        ({"captioner": Seeing(), "questions": 2}, "questions is 2, and there is no writer"),
        ({"captioner": Seeing(), "questions": -1}, "questions -1 is not allowed: a whole number from 0 is"),
        ({"captioner": Seeing(), "frames": 0}, "frames 0 is not allowed"),
        ({"captioner": Seeing(), "files": "1.png"}, "files is one path"),
        ({"captioner": Seeing(), "files": []}, "files is empty"),
        ({"captioner": Seeing(), "files": ["none.png"]}, "'none.png' does not exist"),
        ({"captioner": Seeing(), "files": [__file__]}, "has no ending of an image or a video"),
    ],
)
def test_arguments_that_are_not_allowed(folder, options, message, one_line):
    with one_line(InputError, message):
        make(options.pop("files", [folder]), folder / "data.jsonl", **options)
    assert not (folder / "data.jsonl.work").exists()


def test_a_video_needs_a_captioner(film, one_line):
    with one_line(InputError, "neither a captioner nor a video_captioner"):
        make([film], film.parent / "data.jsonl")


# --- Ray ---------------------------------------------------------------------------------------------------------


class RayError(Exception):
    pass


@pytest.fixture
def ray(monkeypatch):
    """Stands in for Ray: a task runs when its result is asked for, the last one first."""
    ray = SimpleNamespace(sent=[], exceptions=SimpleNamespace(RayError=RayError), cloudpickle=pickle, lost=False)
    tasks = {}

    def get(reference):
        if ray.lost:
            raise RayError("the node died")
        return tasks[reference]()

    def remote(**options):
        def send(function):
            def task(*args):
                ray.sent.append(args)
                tasks[len(tasks)] = lambda: pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(args)))))
                return len(tasks) - 1

            return SimpleNamespace(remote=task)

        return send

    ray.init = lambda **options: None
    ray.shutdown = lambda: ray.sent.append("shutdown")
    ray.is_initialized = lambda: False
    ray.cluster_resources = lambda: {"CPU": 1.0}
    ray.get, ray.remote = get, remote
    ray.wait = lambda references, num_returns: (references[-1:], references[:-1])
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_a_cluster_gives_the_same_rows_in_the_same_order(folder, film, ray):
    options = {"captioner": Seeing(), "video_captioner": Seeing(), "scenes": EACH, "batch_size": 2}
    make([folder], folder / "here.jsonl", **options)
    report = make([folder], folder / "there.jsonl", ray="local", **options)
    assert rows_of(folder / "there.jsonl") == rows_of(folder / "here.jsonl")
    assert [len(args[1]) for args in ray.sent[:-1]] == [2, 1, 1]
    assert ray.sent[-1] == "shutdown"
    assert report.rows == {"captions": 6}
    again = make([folder], folder / "there.jsonl", ray="local", resume=True, **options)
    assert again.resumed == 4


def test_what_fails_on_a_cluster_is_one_line(folder, ray, one_line):
    with one_line(InputError, "cannot be sent to the workers of Ray"):
        make([folder], folder / "a.jsonl", captioner=lambda items, prompt: [], ray="local")
    with one_line(InputError, "name a model, which each process loads"):
        make([folder], folder / "b.jsonl", captioner=LocalModel(SimpleNamespace()).caption, ray="local")
    with one_line(InputError, "gives 1 texts for 3 items"):
        make([folder], folder / "c.jsonl", captioner=only_one, ray="local")
    ray.lost = True
    with one_line(PlmError, "a worker of Ray failed (RayError: the node died)"):
        make([folder], folder / "d.jsonl", captioner=Seeing(), ray="local")


def only_one(items, prompt):
    return ["one"]


def test_a_worker_loads_its_models_once():
    ray_backend._engine.cache_clear()
    pickled = pickle.dumps(Seeing())
    assert ray_backend._engine(pickled) is ray_backend._engine(pickled)


# --- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def url(monkeypatch):
    """The address of an endpoint that describes, merges and asks."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = body["messages"][0]["content"]
            text = "a described star" if isinstance(content, list) else Writing().reply(content)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"index": 0, "message": {"content": text}}]}).encode())

        def log_message(self, *args):
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_command_writes_data_that_check_data_takes(folder, film, url, plm):
    out = folder / "data.jsonl"
    (folder / "notes.jsonl").write_text(json.dumps({"image": str(folder / "1.png"), "notes": "EXIT"}) + "\n\n")
    words = ["caption", folder, "--out", out, "--endpoint", url, "--endpoint-model", "vlm", "--qa", "2"]
    result = plm(*words, "--notes", folder / "notes.jsonl", "--json")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert (summary["captions"], summary["questions"], summary["failed"]) == (4, 8, {})
    assert f"wrote {out}" in result.err
    assert plm("check-data", out, "--media").code == 0
    assert rows_of(out)[0]["metadata"]["captioner"] == "vlm at an endpoint"
    result = plm(*words)
    assert (result.code, "resume" in result.err) == (2, True)
    result = plm(*words, "--resume")
    assert (result.code, result.rows[0][:2]) == (0, ["4", "4"])


def test_the_command_says_what_failed(folder, plm, monkeypatch):
    from plm_core.lm.engine import workers

    monkeypatch.setattr(workers.LocalModel, "caption", Seeing(fails=[False, True]))
    (folder / "0.png").write_bytes(b"no")
    words = ["caption", folder, "--out", folder / "a.jsonl", "--model", "plm_1b", "--batch-size", "2"]
    result = plm(*words)
    assert result.code == 2
    assert "0.png: image" in result.err
    assert "3.png caption: seeing fails: RuntimeError: out of memory" in result.err
    assert "1 files cannot be read, 2 texts cannot be used; the same command with --resume" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model or --endpoint is needed"),
        (["--endpoint", "http://x"], "--endpoint and --endpoint-model belong together"),
        (["--model", "plm_1b", "--writer", "endpoint"], "--writer endpoint needs --endpoint"),
        (["--model", "plm_1b", "--writer", "me"], "writer 'me' is not allowed"),
        (["--model", "plm_1b", "--qa", "1"], "questions is 1, and there is no writer"),
        (["--model", "plm_1b", "--prompt", "imag=x"], "no prompt 'imag'; did you mean 'image'"),
        (["--model", "plm_1b", "--notes", "none"], "--notes 'none' cannot be read"),
        (["--model", "plm_nano"], "plm_nano"),
    ],
)
def test_words_that_are_not_allowed(folder, plm, words, message):
    result = plm("caption", folder / "1.png", "--out", folder / "data.jsonl", *words)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_the_options_reach_the_models(folder, plm, monkeypatch):
    made = {}

    def keep(files, out, **options):
        made.update(options)
        raise InputError("enough")

    monkeypatch.setattr("plm_core.lm.engine.make", keep)
    monkeypatch.setenv("PLM_ENDPOINT_KEY", "secret")
    remote = ("--endpoint", "http://x", "--endpoint-model", "llm")
    plm("caption", folder, "--out", "a.jsonl", "--model", "plm_1b", *remote, "--seconds", "9", "--timeout", "5")
    captioner, writer = (made[name].__self__ for name in ("captioner", "writer"))
    assert (captioner.name, captioner.generation, writer.options["max_tokens"]) == ("plm_1b", {}, 1024)
    assert (writer.timeout, writer._key, made["scenes"].seconds) == (5, "secret", 9)
    assert made["video_captioner"].__self__ is captioner
    plm("caption", folder, "--out", "a.jsonl", "--model", "plm_1b", "--writer", "model", "--max-new-tokens", "9")
    assert made["writer"].__self__ is made["captioner"].__self__
    assert made["writer"].__self__.generation == {"max_new_tokens": 9}
    assert made["merge"] is None
    plm("caption", folder, "--out", "a.jsonl", *remote, "--merge", "none", "--prompt", "image=what?", "--ray")
    assert (made["merge"], made["prompts"].image, made["ray"]) == (None, "what?", "local")
    assert made["captioner"].__self__.name == made["writer"].__self__.name == "llm at an endpoint"


def test_notes_must_be_about_the_files(folder, plm):
    words = ["caption", folder / "1.png", "--out", folder / "a.jsonl", "--model", "plm_1b", "--notes", folder / "n"]
    (folder / "n").write_text('{"image": "elsewhere.png", "notes": "EXIT"}\n')
    assert "elsewhere.png', which is not among the files" in plm(*words).err
    (folder / "n").write_text('{"image": "1.png"}\n')
    assert "n, line 1: an object with image or video, and notes, is expected" in plm(*words).err
