"""The answers of a model as files: what it is asked, resuming after a kill, what cannot be read, Ray."""

import json
import os
import signal
import sys
import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from plm_core.errors import FileError, InputError, MissingDependency, PlmError, PluginError
from plm_core.videobench import AnswererName, RunSettings, ray_backend, run
from plm_core.videobench.frames import uniform
from plm_core.videobench.records import Records


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_model_is_asked_as_the_protocol_says(data, model, tmp_path):
    report = run(model, data, tmp_path / "out", batch_size=4)
    assert report.answered == {"fgqa": 3, "sgqa": 2, "rdcap": 1, "rcap": 2, "rtloc": 2}
    assert not report.unreadable
    assert model.batches == [4, 4, 2]
    by_task = {}
    for request in model.requests:
        by_task.setdefault(request.task, request)
    lengths = {task: (request.max_new_tokens, len(request.frames)) for task, request in by_task.items()}
    assert lengths == {"fgqa": (16, 32), "sgqa": (16, 20), "rdcap": (512, 32), "rcap": (512, 32), "rtloc": (16, 32)}
    assert by_task["fgqa"].video.name == "a.mp4"
    assert by_task["fgqa"].numbers == uniform(40, 32)
    assert not by_task["fgqa"].boxed
    red = (by_task["rcap"].frames == torch.tensor([255, 0, 0])).all(-1).flatten(1).any(1)
    assert red.tolist() == [number < 30 for number in uniform(40, 32)]
    assert lines(tmp_path / "out" / "rtloc.jsonl") == [{"uid": str(i), "prediction": "[8, 16]"} for i in range(2)]
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == {
        "model": "fixed",
        "prompts": "plain",
        "split": "test",
        "frames": 32,
    }


def test_a_finished_row_is_never_asked_again(data, model, tmp_path):
    out = tmp_path / "out"
    run(model, data, out, tasks=["fgqa", "rtloc"], limit=1)
    report = run(model, data, out, tasks=["fgqa"])
    assert (report.answered, report.resumed) == ({"fgqa": 2}, {"fgqa": 1})
    assert run(model, data, out, limit=2).answered == {"fgqa": 0, "sgqa": 2, "rdcap": 1, "rcap": 2, "rtloc": 1}
    assert len({(request.task, request.uid) for request in model.requests}) == len(model.requests) == 10


def test_a_kill_loses_only_the_row_at_work(data, model, tmp_path, forked):
    out = tmp_path / "out"

    class Slow(type(model)):
        def answer(self, requests):
            if (out / "sgqa.jsonl").exists():  # three rows of FGQA and one of SGQA are answered
                time.sleep(60)
            return super().answer(requests)

    child = forked(run, Slow(), data, out)
    while not (out / "sgqa.jsonl").exists() or not (out / "sgqa.jsonl").read_text().endswith("\n"):
        time.sleep(0.01)
        assert child.is_alive()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with open(out / "sgqa.jsonl", "a") as file:
        file.write('{"uid": "s1", "predi')  # as a kill in the middle of a line would leave it
    report = run(model, data, out)
    assert report.resumed == {"fgqa": 3, "sgqa": 1, "rdcap": 0, "rcap": 0, "rtloc": 0}
    assert model.requests[0].uid == "s1"
    assert [row["uid"] for row in lines(out / "sgqa.jsonl")] == ["s0", "s1"]


def test_a_video_that_cannot_be_read_is_noted_and_tried_again(data, model, tmp_path, clips, one_line):
    out = tmp_path / "out"
    (data / "videos").unlink()
    (data / "videos").mkdir()
    (data / "videos" / "a.mp4").write_bytes((clips / "short.mp4").read_bytes())
    (data / "videos" / "b.mp4").write_text("no video")
    report = run(model, data, out)
    assert report.answered == {"fgqa": 2, "sgqa": 0, "rdcap": 0, "rcap": 0, "rtloc": 0}
    reasons = report.unreadable
    assert "video 'short.mp4' is not in" in reasons["sgqa s0"]
    assert "has 20 frames; this task needs 32 or more" in reasons["rcap 0"]
    assert "cannot be read as a video" in reasons["rtloc 1"]
    assert lines(out / "rdcap.jsonl") == [{"uid": "0", "error": reasons["rdcap 0"]}]
    report = run(model, data, out, videos=clips)
    assert sum(report.answered.values()) == 8
    assert not report.unreadable
    assert [row.get("prediction") for row in lines(out / "rdcap.jsonl")] == [None, model.answers["rdcap"]]


def test_an_out_of_another_run_is_refused(data, model, tmp_path, one_line):
    out = tmp_path / "out"
    run(model, data, out, tasks=["fgqa"])
    with one_line(InputError, "holds answers of another run (frames 32, now 8): name another folder"):
        run(model, data, out, settings=RunSettings(frames=8))
    model.name = "another"
    with one_line(InputError, "(model 'fixed', now 'another')"):
        run(model, data, out)
    (out / "run.json").write_text("{")
    with one_line(InputError, "run.json' cannot be read"):
        run(model, data, out)
    (out / "run.json").unlink()
    (out / "fgqa.jsonl").write_text('{"uid": 1}\nnonsense\n')
    with one_line(InputError, "fgqa.jsonl', line 2: no JSON"):
        run(model, data, out)


def test_fewer_frames_are_allowed_for_small_models(data, model, tmp_path):
    run(model, data, tmp_path / "out", tasks=["rcap"], settings=RunSettings(frames=8))
    assert model.requests[0].numbers == uniform(40, 8)
    assert "from frame 2 to frame 4" in model.requests[0].prompt


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda requests: [], "model 'fixed' gives 0 answers to 1 requests"),
        (lambda requests: None, "model 'fixed' gives NoneType answers"),
        (lambda requests: [7], "model 'fixed' gives int as an answer; a text is expected"),
    ],
)
def test_a_model_that_does_not_answer_with_texts(data, model, tmp_path, answers, message, one_line):
    model.answer = answers
    with one_line(PluginError, message):
        run(model, data, tmp_path / "out")


def test_a_row_that_the_model_refuses_is_noted_and_the_others_are_answered(data, model, tmp_path):
    class Short(type(model)):
        def answer(self, requests):
            if any(request.uid == "f1" for request in requests):
                raise InputError("prompt has 99 tokens; 64 are allowed")
            return super().answer(requests)

    report = run(Short(), data, tmp_path / "out", tasks=["fgqa"], batch_size=3)
    assert report.unreadable == {"fgqa f1": "prompt has 99 tokens; 64 are allowed"}
    assert report.answered == {"fgqa": 2}
    assert run(model, data, tmp_path / "out", tasks=["fgqa"]).answered == {"fgqa": 1}


def test_arguments_are_checked(data, model, tmp_path, one_line):
    with one_line(InputError, "limit -1 is not allowed: a whole number from 1 is"):
        run(model, data, tmp_path / "out", limit=-1)
    with one_line(InputError, "limit 0 is not allowed"):
        run(model, data, tmp_path / "out", limit=0)
    with one_line(InputError, "batch_size 0 is not allowed"):
        run(model, data, tmp_path / "out", batch_size=0)
    with one_line(InputError, "with ray it must be a name"):
        run(model, data, tmp_path / "out", ray="local")
    with one_line(InputError, "is not a folder"):
        run(model, data, tmp_path / "out", videos=tmp_path / "none")
    with one_line(MissingDependency, "needs the module 'no_such_module'"):
        run("no_such_module:make", data, tmp_path / "out")
    with one_line(PluginError, "'builtins:dict' gives dict; name and answer(requests) are expected"):
        AnswererName(name="builtins:dict").load()


def test_boxes_that_are_not_there_fail_before_the_first_question(data, model, tmp_path, one_line):
    (data / "metadata" / "metadata_test.jsonl").unlink()
    with one_line(InputError, "metadata_test.jsonl' cannot be read: No such file"):
        run(model, data, tmp_path / "out")
    assert not model.requests
    assert run(model, data, tmp_path / "out", tasks=["fgqa"]).answered == {"fgqa": 3}


def test_two_processes_do_not_write_to_one_folder(data, model, tmp_path, one_line):
    class Nested(type(model)):
        def answer(self, requests):
            with one_line(InputError, "another process writes to"):
                run(model, data, tmp_path / "out")
            return super().answer(requests)

    assert run(Nested(), data, tmp_path / "out", tasks=["sgqa"]).answered == {"sgqa": 2}


# --- files that grow ----------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_whole_rows(tmp_path, full_disk_after, one_line):
    file = tmp_path / "x.jsonl"
    records = Records(file)
    records.add({"uid": "a", "prediction": "short"})
    before = file.read_bytes()
    with full_disk_after(len(before) + 10), one_line(FileError, "cannot write"):
        records.add({"uid": "b", "prediction": "long" * 10})
    assert file.read_bytes() == before
    records.add({"uid": "b", "prediction": "x\ny \ud800"})
    assert list(Records(file).rows) == ["a", "b"]


def test_a_later_row_replaces_an_earlier_one(tmp_path, one_line):
    file = tmp_path / "x.jsonl"
    file.write_text('{"uid": 1, "prediction": "a"}\n\n{"uid": "1", "prediction": "b"}\n')
    assert Records(file).rows == {"1": {"uid": "1", "prediction": "b"}}
    file.write_text('{"prediction": "a"}\n')
    with one_line(InputError, 'line 1: {"prediction": "a"} has no uid'):
        Records(file)


# --- Ray ----------------------------------------------------------------------------------------------------------


class Fixed:
    """A model that workers load by its name."""

    name = "by name"

    def answer(self, requests):
        return [f"{request.task} {len(request.frames)}" for request in requests]


def fake_ray(lose=False):
    """A stand-in for Ray that runs tasks when they are waited for, the last one first."""

    class RayError(Exception):
        pass

    def get(call):
        if lose:
            raise RayError("out of memory")
        return call()

    def wait(pending):
        ray.most = max(ray.most, len(pending))
        return pending[-1:], pending[:-1]

    ray = SimpleNamespace(most=0, exceptions=SimpleNamespace(RayError=RayError), get=get, wait=wait)
    ray.is_initialized, ray.init, ray.shutdown = (lambda: False), (lambda **options: None), lambda: None
    ray.cluster_resources = lambda: {"CPU": 2.0}
    ray.remote = lambda **options: lambda function: SimpleNamespace(remote=lambda *args: lambda: function(*args))
    return ray


@pytest.fixture
def named(monkeypatch):
    """Return the name of `Fixed`, in a module that can be imported."""
    monkeypatch.setitem(sys.modules, "answerers_of_a_test", SimpleNamespace(Fixed=Fixed))
    ray_backend._loaded.cache_clear()
    return "answerers_of_a_test:Fixed"


def test_ray_answers_in_any_order_and_few_batches_wait(data, tmp_path, named, monkeypatch, one_line):
    ray = fake_ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    (data / "sgqa" / "plm_sgqa_test.jsonl").write_text(
        json.dumps({"uid": "s", "video": "none.mp4", "question": "q", "answer": "a"}) + "\n"
    )
    report = run(named, data, tmp_path / "out", ray="local")
    assert report.answered == {"fgqa": 3, "sgqa": 0, "rdcap": 1, "rcap": 2, "rtloc": 2}
    assert list(report.unreadable) == ["sgqa s"]
    assert ray.most == 4
    assert {row["uid"]: row["prediction"] for row in lines(tmp_path / "out" / "rtloc.jsonl")} == dict.fromkeys(
        "01", "rtloc 32"
    )
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (facts["model"], facts["dtype"]) == (named, "fp32")
    with one_line(InputError, "(dtype 'fp32', now 'bf16')"):
        run(AnswererName(name=named, dtype="bf16"), data, tmp_path / "out")


def test_what_fails_on_ray_is_one_line(data, tmp_path, named, monkeypatch, one_line):
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    with one_line(PluginError, "has no attribute 'Fixed.None'"):
        run(f"{named}.None", data, tmp_path / "a", ray="local")
    monkeypatch.setitem(sys.modules, "ray", fake_ray(lose=True))
    with one_line(PlmError, "a worker of Ray failed (RayError: out of memory)"):
        run(named, data, tmp_path / "b", ray="local")
    monkeypatch.setitem(sys.modules, "ray", None)
    with one_line(MissingDependency, "install plm-core[ray]"):
        run(named, data, tmp_path / "c", ray="local")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_of_this_machine_answers(data, tmp_path, monkeypatch):
    (tmp_path / "named_answerer.py").write_text(
        "class Fixed:\n    name = 'fixed'\n    def answer(self, requests):\n        return [r.uid for r in requests]\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    report = run("named_answerer:Fixed", data, tmp_path / "out", ray="local", batch_size=2)
    assert sum(report.answered.values()) == 10
    assert all(row["prediction"] == row["uid"] for row in lines(tmp_path / "out" / "rcap.jsonl"))
