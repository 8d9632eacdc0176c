"""The model is shown the frames that the original takes, and its answers about them become seconds."""

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from plm_core import InputError
from plm_core.lm.video import Span, TimeMap, frame_indices, in_seconds, read_frames

GOLDEN = Path(__file__).parent / "goldens" / "chat_regions_frames.safetensors"


def cases():
    with safe_open(GOLDEN, "pt") as file:
        return json.loads(file.metadata()["frame_cases"])


def write(path, count, rate=25, times=None, rotation=None, size=(16, 24)):
    """Write frames whose grey level is their number; ``times`` are in milliseconds."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=rate, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, "rgb24"
        stream.codec_context.gop_size = 10
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), number, np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a clip of 250 frames in 10 seconds."""
    return write(tmp_path_factory.mktemp("video") / "clip.mp4", 250)


def numbers(frames):
    """The numbers of frames by their pixels."""
    return frames.pixels[:, 0, 0, 0].tolist()


# --- which frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['num_frames']} at {case['fps']}")
def test_frames_are_the_originals(case):
    expected = case.pop("output")
    if expected == "error:ValueError":
        assert case["fps"] < 0.5
        expected = frame_indices(**case | {"fps": 1.0})  # every frame, as with a step of one
    assert frame_indices(**case) == [min(index, case["num_frames"] - 1) for index in expected]


def test_a_slow_video_and_one_frame():
    assert frame_indices(5, 0.4) == [0, 1, 2, 3, 4]
    assert frame_indices(5, 0.5, start=2, end=6) == [1, 2, 3]
    assert set(frame_indices(1, 30)) == {0}
    assert frame_indices(90, 30, sampling_fps=2.9, max_frames=7) == frame_indices(90, 30, sampling_fps=2, max_frames=7)


@given(
    count=st.integers(1, 5000),
    fps=st.floats(0.01, 240),
    most=st.integers(1, 40),
    sampling=st.floats(1, 8),
    start=st.none() | st.floats(0, 500),
    end=st.none() | st.floats(0, 500),
)
@settings(max_examples=100, deadline=None)
def test_frames_exist_and_ascend_inside_the_range(count, fps, most, sampling, start, end):
    frames = frame_indices(count, fps, most, sampling, start, end)
    assert 1 <= len(frames) <= most
    assert frames == sorted(frames)
    assert 0 <= frames[0] <= frames[-1] < count
    inside = [math.floor((0 if start is None else start) * fps), count - 1 if end is None else math.floor(end * fps)]
    low, high = sorted(min(frame, count - 1) for frame in inside)
    assert low <= frames[0]
    assert frames[-1] <= max(high, low + 1)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"num_frames": 0}, ("num_frames 0", "whole number from 1")),
        ({"max_frames": 0}, ("max_frames 0", "whole number from 1")),
        ({"fps": 0.0}, ("fps 0.0", "above 0")),
        ({"fps": float("nan")}, ("fps nan",)),
        ({"sampling_fps": 0.5}, ("sampling_fps 0.5", "from 1")),
        ({"start": -1.0}, ("start -1.0", "from 0")),
        ({"end": float("inf")}, ("end inf",)),
        ({"start": "1:20"}, ("start '1:20'", "seconds")),
    ],
)
def test_bad_sampling_is_one_clear_line(change, parts, one_line):
    with one_line(InputError, *parts):
        frame_indices(**{"num_frames": 9, "fps": 3.0} | change)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(None, None), (2.2, 7.4), (0.04, None), (None, 3), (9.9, 400), (4, 4)])
def test_a_file_gives_the_frames_of_the_rule(clip, start, end):
    frames = read_frames(clip, max_frames=8, start=start, end=end)
    expected = frame_indices(250, 25, 8, start=start, end=end)
    assert numbers(frames) == frames.indices == expected
    assert frames.seconds == pytest.approx([index / 25 for index in expected])
    assert (frames.rate, frames.duration) == pytest.approx((25, 10))
    assert frames.times == TimeMap(tuple(frames.indices), tuple(frames.seconds))


def test_each_frame_is_decoded_and_changed_once(clip):
    calls = []

    def corner(frame):
        calls.append(frame.shape)
        return frame[0, 0]

    frames = read_frames(clip, each=corner)
    assert calls == [(16, 24, 3)] * 32
    assert frames.pixels[:, 0].tolist() == frames.indices


def test_a_frame_that_the_rule_names_twice_is_shown_once(tmp_path):
    one = read_frames(write(tmp_path / "one.mp4", 1))
    assert (one.indices, one.seconds, len(one.pixels)) == ([0], [0], 1)
    ten = read_frames(write(tmp_path / "ten.mp4", 10), start=0.36, end=0.36)
    assert ten.indices == [9]


def test_a_range_is_looked_up_among_the_times_of_a_varying_rate(tmp_path):
    times = [0, 100, 200, 300, 1000, 1100, 5000, 5100, 9000, 9100]
    path = write(tmp_path / "varying.mkv", 10, times=times)
    frames = read_frames(path, start=1.0, end=8.9)
    assert numbers(frames) == frames.indices == [4, 5, 6, 7]
    assert frames.seconds == pytest.approx([1.0, 1.1, 5.0, 5.1])
    assert read_frames(path, start=5.1, end=5.1).indices == [7, 8]  # although 5100 ms are a bit more than 5.1


def test_frames_are_upright(tmp_path):
    frames = read_frames(write(tmp_path / "turned.mp4", 10, rotation=90), max_frames=3)
    assert frames.pixels.shape == (3, 24, 16, 3)


def test_a_truncated_file_is_as_long_as_what_is_left(tmp_path):
    whole = write(tmp_path / "whole.ts", 250)
    part = tmp_path / "part.ts"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = read_frames(part, max_frames=8)
    assert numbers(frames) == frames.indices
    assert len(frames.indices) == 8
    assert 3 < frames.duration < 7
    assert frames.indices[-1] / 25 < frames.duration


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"start": 10.0}, ("start 10 ", "clip.mp4", "10.00 s")),
        ({"start": 99, "end": 120}, ("start 99 ", "clip.mp4", "10.00 s")),
        ({"start": 5, "end": 2.5}, ("start 5 ", "end 2.5")),
        ({"start": -2}, ("start -2", "from 0")),
        ({"max_frames": 0}, ("max_frames 0",)),
    ],
)
def test_a_range_outside_the_video_is_one_clear_line(clip, arguments, parts, one_line):
    with one_line(InputError, *parts):
        read_frames(clip, **arguments)


def test_a_file_that_is_no_video_is_named(tmp_path, one_line):
    text = tmp_path / "words.mp4"
    text.write_text("not a video")
    with one_line(InputError, "words.mp4", "cannot be read as a video"):
        read_frames(text)
    with one_line(InputError, "missing.mp4", "is not a file"):
        read_frames(tmp_path / "missing.mp4")


# --- answers in seconds -------------------------------------------------------------------------------------------


TIMES = TimeMap(tuple(range(0, 960, 30)), tuple(i * 1.5 for i in range(32)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[12, 20]", "[18.00 s, 30.00 s]"),
        ("[0,31]", "[0.00 s, 46.50 s]"),
        ("[0,  31]", "[0.00 s, 46.50 s]"),
        ("It happens in [20, 12].", "It happens in [18.00 s, 30.00 s]."),
        ("frames 12 to 20", "18.00 s to 30.00 s"),
        (
            "Frames [2, 4]: a dog. Frame [5, 5]: out of frame.",
            "[3.00 s, 6.00 s]: a dog. [7.50 s, 7.50 s]: out of frame.",
        ),
        ("Frames 3 to 4, then 7.", "4.50 s to 6.00 s, then 7."),
    ],
)
def test_spans_become_seconds(answer, expected):
    text, spans = in_seconds(answer, TIMES)
    assert text == expected
    assert len(spans) == expected.count(" s") // 2
    assert all(span.start == TIMES.second(span.first) <= span.end == TIMES.second(span.last) for span in spans)


@pytest.mark.parametrize(
    "answer",
    [
        "[12, 32]",
        "frames 31 to 32",
        "[12]",
        "[100,100,400,300]",
        "[1, 2, 3]",
        "[1.5, 2]",
        "[-1, 2]",
        "frame 12",
        "12 to 20",
        "frames 12 to 20.5",
        "timeframes 3 to 4",
        "[12\n20]",
        "[0000001, 2]",
        "",
    ],
)
def test_nothing_else_is_changed(answer):
    assert in_seconds(answer, TIMES) == (answer, [])


def test_a_span_has_positions_and_times():
    _, spans = in_seconds("[4, 2] and frames 0 to 1", TIMES)
    assert spans == [Span(first=2, last=4, start=3.0, end=6.0), Span(first=0, last=1, start=0.0, end=1.5)]


def test_positions_frames_and_seconds():
    assert (len(TIMES), TIMES.frame(2), TIMES.second(2)) == (32, 60, 3.0)
    assert [TIMES.position_of_frame(index) for index in (0, 14, 15, 16, 60, 9999)] == [0, 0, 0, 1, 2, 31]
    assert [TIMES.position_of_second(second) for second in (0, 0.75, 0.8, 3, 1e9)] == [0, 0, 1, 2, 31]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True), st.floats(0.5, 120))
@settings(max_examples=50, deadline=None)
def test_the_map_goes_there_and_back(indices, fps):
    indices = sorted(indices)
    times = TimeMap(tuple(indices), tuple(index / fps for index in indices))
    for position in range(len(times)):
        assert times.position_of_frame(times.frame(position)) == position
        assert times.position_of_second(times.second(position)) == position


def test_a_map_and_its_positions_are_checked(one_line):
    for position in (-1, 32):
        with one_line(InputError, f"position {position}", "0 to 31"):
            TIMES.frame(position)
    for indices, seconds in (((), ()), ((1, 2), (0.5,))):
        with one_line(InputError, f"{len(indices)} and {len(seconds)} values"):
            TimeMap(indices, seconds)


def test_a_clip_answers_in_its_own_seconds(clip):
    frames = read_frames(clip, max_frames=5, start=2, end=6)
    text, _ = in_seconds("[1, 3]", frames.times)
    assert text == "[3.00 s, 5.00 s]"
    assert torch.equal(frames.pixels[1].unique(), torch.tensor([75], dtype=torch.uint8))
