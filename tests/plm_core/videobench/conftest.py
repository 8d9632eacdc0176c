"""A small benchmark: three videos, rows of all five tasks, and a model that answers them."""

import json

import numpy as np
import pytest
import torch

LENGTH = 40  # frames of a video, of which 32 are shown


def _frames(seed):
    """Frames that tell their own number: the first pixel's red is 6 times the number."""
    frames = np.full((LENGTH, 32, 48, 3), 40 + 20 * seed, dtype=np.uint8)
    frames[:, :8, :8, 0] = 6 * np.arange(LENGTH)[:, None, None]
    return frames


@pytest.fixture(scope="session")
def clips(tmp_path_factory, write_video):
    """Return a folder with the videos a.mp4, b.mp4 and short.mp4, the last of 20 frames; tests do not change it."""
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate("ab"):
        write_video(folder / f"{name}.mp4", _frames(seed))
    write_video(folder / "short.mp4", _frames(0)[:20])
    return folder


def fgqa_row(uid, question, video="a.mp4", answer="left"):
    options = {"option_0": "left", "option_1": "right"}
    return {"uid": uid, "qa_uid": question, "video": video, "question": "Which?", "answer": answer, "options": options}


def subject(uid, video="a.mp4", **fields):
    return {"uid": uid, "video": video, "masklet_id": 3, "total_frames": LENGTH, **fields}


def _rows():
    windows = [
        subject(i, video=video, caption=f"walks to door {i}", start_frame=10, end_frame=20)
        for i, video in enumerate(("a.mp4", "b"))
    ]
    pieces = [
        {"start_frame": 0, "end_frame": 20, "caption": "walks in"},
        {"start_frame": 20, "end_frame": 39, "caption": "sits down"},
    ]
    return {
        "fgqa": [fgqa_row("f0", "q0"), fgqa_row("f1", "q0", answer="right"), fgqa_row("f2", "q1", video="b.mp4")],
        "sgqa": [
            {"uid": f"s{i}", "video": "short.mp4", "question": "What is it?", "answer": "a red cup", "domain": "home"}
            for i in range(2)
        ],
        "rdcap": [subject(0, dense_captions=pieces)],
        "rcap": windows,
        "rtloc": windows,
    }


@pytest.fixture(scope="session")
def row():
    """Return the makers of single rows, for tests that write files of their own."""
    return {"fgqa": fgqa_row, "subject": subject}


@pytest.fixture(scope="session")
def write_rows():
    """Return a function (file, rows) that writes JSON lines."""

    def write(file, rows):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return file

    return write


@pytest.fixture
def data(tmp_path, clips, write_rows):
    """Return a folder like the published one, which a test may change."""
    folder = tmp_path / "data"
    for name, rows in _rows().items():
        write_rows(folder / name / f"plm_{name}_test.jsonl", rows)
    boxes = {str(frame): [10, 8, 30, 24] if frame < 30 else None for frame in range(LENGTH)}
    metadata = [{"video": video, "masklet_id": 3, "bbox": boxes, "fps": 6} for video in ("a.mp4", "b")]
    write_rows(folder / "metadata" / "metadata_test.jsonl", metadata)
    (folder / "videos").symlink_to(clips)
    return folder


class Model:
    """A model that answers by the task, and keeps the requests."""

    name = "fixed"

    def __init__(self):
        self.answers = {
            "fgqa": "(A) left",
            "sgqa": "A red cup.",
            "rdcap": "[0, 16]: walks in\n[16, 31]: sits down",
            "rcap": "walks to door 0",
            "rtloc": "[8, 16]",
        }
        self.requests = []
        self.batches = []

    def answer(self, requests):
        self.batches.append(len(requests))
        self.requests += requests
        assert all(request.frames.dtype == torch.uint8 for request in requests)
        return [self.answers[request.task] for request in requests]


@pytest.fixture
def model():
    """Return a model that answers every question of `data` in the same way."""
    return Model()
