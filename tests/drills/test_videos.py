"""Short, cut, damaged and oddly timed videos: clips of the right length, or one line that names the file."""

import random
from functools import partial

import numpy as np
import pytest
import torch

import gazelle
from gazelle.people.source import HeadSource
from gazelle.video import VideoSummary, write_gaze_video
from plm_core.datasets import Dataset
from plm_core.datasets.checking import unreadable
from plm_core.errors import InputError
from plm_core.hookspecs import Input
from plm_core.video import ClipSettings, Video, VideoFolder, open_clips, read_clip
from plm_core.video.windows import read_windows, window_starts

av = pytest.importorskip("av")
CODECS = ("mpeg4", "libx264", "mjpeg", "libvpx")


def odd_video(file, draw):
    """Write a video of any length and rate, and return its number of frames."""
    file.unlink(missing_ok=True)
    file.touch()  # nothing is written where there are no frames
    codec, frames = draw.choice(CODECS), draw.choice([0, 1, 2, 5, 12, 40])
    with av.open(str(file), "w", format={"libvpx": "webm", "libx264": "matroska"}.get(codec, "mp4")) as out:
        stream = out.add_stream(codec, rate=draw.choice([1, 5, 24, 25, 240]))
        stream.width, stream.height = draw.choice([16, 48]), draw.choice([16, 34])
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(frames):
            picture = np.full((stream.height, stream.width, 3), (i * 37) % 256, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if frames:  # some encoders end with a frame that they were not given
            out.mux(stream.encode())
    return frames


def damage(file, draw):
    contents = bytearray(file.read_bytes())
    way = draw.random()
    if way < 0.4 and contents:
        del contents[draw.randrange(len(contents)) :]
    elif way < 0.8:
        for _ in range(draw.choice([1, 5, 50])):
            if contents:
                contents[draw.randrange(len(contents))] = draw.randrange(256)
    file.write_bytes(bytes(contents))


def windows(file, spec):
    video = Video(file)
    return read_windows(video, window_starts(len(video), spec.frames, spec.stride), spec)


@pytest.mark.trials(short=25, long=600)
def test_videos(trials, drill, tmp_path):
    (tmp_path / "c").mkdir()
    file = tmp_path / "c" / "x.mp4"
    for number in range(trials):
        draw = random.Random(number)
        frames = odd_video(file, draw)
        if whole := draw.random() < 0.4:
            length = drill.attempt(f"{number} length", lambda: len(Video(file)))
            right = isinstance(length, InputError) if frames == 0 else length == frames
            drill.expect(f"{number} length", right, f"{length} frames, not {frames}")
        else:
            damage(file, draw)
        stride = draw.choice([1, 3])
        spec = Input(size=(3, 16, 16), frames=4, stride=stride)

        answers = {
            "clip": partial(read_clip, file, 4, stride, pad="last"),
            "folder": lambda s=stride: VideoFolder(tmp_path, 4, s, pad="last")[0][0],
            "train": lambda s=spec: open_clips(data_of(file), s, ClipSettings(), lambda clip: clip)[0][0],
            "windows": partial(windows, file, spec),
            "frames": lambda: torch.stack(list(Video(file).frames(10)))[:1].expand(4, -1, -1, -1),
        }
        results = {name: drill.attempt(f"{number} {name}", read) for name, read in answers.items()}
        for name, result in results.items():
            if isinstance(result, torch.Tensor):
                right = result.shape[2] == 4 if name == "windows" else len(result) == 4
                drill.expect(f"{number} {name}", right, f"{list(result.shape)}")
            else:
                drill.expect(f"{number} {name}", str(file) in str(result), f"no name of the file: {result}")
        found = unreadable([file], "videos")
        if found:
            drill.expect(f"{number} check", isinstance(results["clip"], InputError), f"check says {found}")
        if whole and frames:
            needed = 3 * stride + 1
            strict = drill.attempt(
                f"{number} strict", lambda s=spec: open_clips(data_of(file), s, ClipSettings(pad=None), lambda c: c)
            )
            drill.expect(f"{number} strict", isinstance(strict, InputError) == (frames < needed), f"{frames}: {strict}")


@pytest.mark.trials(short=12, long=300)
def test_gaze_in_videos(trials, drill, tmp_path):
    """The video with drawings has the frames and times of the original. If that is damaged, nothing is written."""
    model = gazelle.GazeLLE("test_vit", inout=True, dim=16, num_layers=1, in_size=160, out_size=(8, 8))
    estimator = gazelle.Estimator(model)
    file, out, table = (tmp_path / name for name in ("x.mp4", "out/x.mp4", "out/x.csv"))
    for number in range(trials):
        draw = random.Random(number)
        frames = odd_video(file, draw)
        if not (whole := draw.random() < 0.5):
            damage(file, draw)
        source = HeadSource(boxes={"x.mp4": [(0.1, 0.1, 0.6, 0.6)] * draw.choice([0, 1, 3])})
        result = drill.attempt(number, lambda s=source: write_gaze_video(estimator, file, out, table, s))
        if isinstance(result, VideoSummary):
            written, read = Video(out), Video(file)
            same = len(written) == len(read) == result.frames
            drill.expect(number, same, f"{len(written)} frames of {len(read)}")
            times = [abs(written.seconds(i) - read.seconds(i)) < 1e-3 for i in range(len(read))]
            drill.expect(number, all(times), "other times")
        else:
            drill.expect(number, not whole or not frames, f"not written: {result}")
            drill.expect(number, str(file) in str(result), f"no name of the file: {result}")
            drill.expect(number, not any(path.exists() for path in (out, table)), "something is written")
        for path in (out, table):
            path.unlink(missing_ok=True)


def data_of(file):
    return Dataset("d", ["c/x.mp4"], np.zeros(1, np.int64), ("c",), [file], "videos")
