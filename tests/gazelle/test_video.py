"""Gaze in rendered clips, whose labels are the detector."""

import csv
import itertools
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from gazelle import video
from gazelle.estimation import Estimator, Look
from gazelle.people.source import HeadSource
from gazelle.video.following import HIDDEN, Sighting, fill, follow
from gazelle.video.looking import Smoothing
from gazelle.video.rows import COLUMNS
from plm_core import InputError, MissingDependency, shapes
from plm_core.video import Video

BOX, OTHER = (0.1, 0.1, 0.3, 0.4), (0.6, 0.1, 0.8, 0.4)


@pytest.fixture(scope="module")
def clip():
    return shapes.GazeClips("heldout", size=96, frames=11, count=4, people=(2, 2))[0]


@pytest.fixture(scope="module")
def path(clip, write_video, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, clip.frames)
    return path


@pytest.fixture
def estimator(model):
    return Estimator(model)


def heads_of(clip, every=1):
    """Return a detector that knows the boxes of each frame, which it is asked for in order."""
    frames = itertools.count(0, every)

    def labels(pixels):
        people = clip.people[next(frames)]
        return np.array([person.head for person in people], np.float32), np.array([0.9, 0.8], np.float32)

    return labels


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_video_in_and_a_video_and_a_table_out(estimator, clip, path, tmp_path):
    steps = []
    out, table = tmp_path / "clip.gaze.mp4", tmp_path / "clip.gaze.csv"
    source = HeadSource(heads_of(clip, 5))
    summary = video.write_gaze_video(estimator, path, out, table, source, note="a note", advance=steps.append)
    assert (summary.frames, summary.rate, summary.people) == (11, pytest.approx(25), 2)
    assert sum(steps) == 11
    drawn = Video(out)
    assert (len(drawn), drawn.rate) == (11, pytest.approx(25))
    with av.open(str(out)) as file:
        assert file.streams.video[0].average_rate == 25
        assert file.streams.video[0].pix_fmt == "yuv420p"
        assert not file.streams.audio
    factor = drawn.read([0]).shape[2] // 96
    assert drawn.read([0]).shape == (1, 96 * factor, 96 * factor, 3)
    lines = rows(table)
    assert tuple(lines[0]) == COLUMNS
    assert [(int(line["frame"]), int(line["id"])) for line in lines] == [(i, k) for i in range(11) for k in (1, 2)]
    assert [float(line["time"]) for line in lines[::2]] == pytest.approx([i / 25 for i in range(11)], abs=1e-3)
    boxes = np.array([[float(line[side]) for side in ("x0", "y0", "x1", "y1")] for line in lines])
    heads = [person.head for frame in clip.people for person in frame]  # in the order of the scores
    np.testing.assert_allclose(boxes, heads, atol=0.6)
    assert {line["frame"] for line in lines if line["detector_score"]} == {"0", "5", "10"}
    assert not list(tmp_path.glob(".*"))


def test_the_frames_of_a_video_are_those_of_pictures(estimator, clip, path):
    settings = video.VideoSettings(every=1, smooth=0, batch_size=4)
    frames = list(video.gaze_frames(estimator, path, HeadSource(heads_of(clip)), settings))
    assert [frame.number for frame in frames] == list(range(11))
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, clip.frames[frame.number])
    last = frames[-1]
    looks = estimator(last.pixels, [person.look.box for person in last.people])
    for person, look in zip(last.people, looks, strict=True):
        np.testing.assert_allclose(person.look.heatmap, look.heatmap, atol=1e-5)
        assert person.look.inside == pytest.approx(look.inside, abs=1e-5)


def test_the_batch_changes_nothing(estimator, clip, path):
    frames = [
        list(video.gaze_frames(estimator, path, HeadSource(heads_of(clip)), video.VideoSettings(every=1, batch_size=n)))
        for n in (1, 8)
    ]
    for one, eight in zip(*frames, strict=True):
        for a, b in zip(one.people, eight.people, strict=True):
            assert (a.id, a.looks_at, a.looks_at_camera) == (b.id, b.looks_at, b.looks_at_camera)
            assert a.look.point == pytest.approx(b.look.point, abs=1e-5)


def test_frames_without_people_are_not_encoded(estimator, path, monkeypatch, tmp_path):
    monkeypatch.setattr(estimator.model, "encode", lambda x: pytest.fail("encoded"))
    summary = video.write_gaze_video(
        estimator, path, tmp_path / "o.mp4", tmp_path / "o.csv", HeadSource(boxes={"*": []})
    )
    assert summary.people == 0
    assert (tmp_path / "o.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert len(Video(tmp_path / "o.mp4")) == 11
    below = Video(tmp_path / "o.mp4").read([3])[0, -12:].float().mean()
    assert below < 80, "a note says so"


def test_given_boxes_are_those_of_every_frame_and_a_person_may_have_none(estimator, path):
    given = HeadSource(boxes={"clip.mp4": [BOX, (9.6, 9.6, 28.8, 38.4)]})
    for frame in video.gaze_frames(estimator, path, given):
        assert [person.id for person in frame.people] == [1, 2]
        assert frame.people[1].look.box == pytest.approx(BOX)
        assert frame.people[0].detector_score is None
    for frame in video.gaze_frames(estimator, path, HeadSource(None)):
        assert [(person.id, person.look.box) for person in frame.people] == [(1, None)]
    with pytest.raises(InputError, match=r"clip\.mp4' is not in the file of boxes"):
        next(video.gaze_frames(estimator, path, HeadSource(boxes={"else.mp4": [BOX]})))


def test_boxes_move_evenly_between_sightings_and_stay_until_the_next_look():
    later = tuple(side + 0.1 for side in BOX)
    found = {2: [(0, Sighting(2, OTHER, 0.7))], 1: [(0, Sighting(1, BOX, 0.9)), (4, Sighting(1, later, 0.8))]}
    frames = fill(found, 7, every=2)
    assert [[sighting.id for sighting in frame] for frame in frames] == [[1, 2], [1, 2], [1], [1], [1], [1], []]
    assert frames[1][0].box == pytest.approx(tuple(side + 0.025 for side in BOX))
    assert frames[2][0].box == pytest.approx(tuple(side + 0.05 for side in BOX)), "missed by the detector here"
    assert [frame[0].score for frame in frames[:6]] == [0.9, None, None, None, 0.8, None]
    assert frames[5][0].box == later


def test_a_person_who_is_missed_for_long_gets_another_number(write_video, tmp_path):
    write_video(tmp_path / "still.mp4", np.zeros((40, 32, 32, 3), np.uint8))
    seen = iter([True] + [False] * (HIDDEN // 4 + 2) + [True] * 9)

    def blinking(pixels):
        count = int(next(seen))
        return np.tile(np.float32([[3, 3, 20, 20]]), (count, 1)), np.ones(count, np.float32)

    frames = follow(Video(tmp_path / "still.mp4"), "still.mp4", HeadSource(blinking), 4)
    assert [sighting.id for sighting in frames[0]] == [1]
    assert frames[4] == []
    assert {sighting.id for frame in frames[20:] for sighting in frame} == {2}


def test_points_are_smoothed_and_not_across_a_look_outside():
    smooth = Smoothing(0.75, threshold=0.5)
    points = [((0.0, 0.0), 0.9), ((1.0, 0.4), 0.9), ((0.0, 0.0), 0.1), ((0.6, 0.6), 0.9), ((1.0, 1.0), None)]
    results = []
    for point, inside in points:
        [look] = smooth([1], [Look(BOX, point, 0.5, inside, np.zeros((2, 2), np.float32))])
        results.append(look.point)
    assert results[:4] == [(0, 0), (0.25, pytest.approx(0.1)), (0, 0), (0.6, 0.6)]
    assert results[4] == pytest.approx((0.7, 0.7))
    smooth([], [])
    assert smooth([1], [Look(BOX, (0.3, 0.3), 0.5, 0.9, np.zeros((2, 2)))])[0].point == (0.3, 0.3), "was away"


def damaged(path, write_video, tmp_path):
    """Return paths of videos that cannot be read, and what is said of them."""
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    write_video(tmp_path / "zeros.mp4", noise)
    with av.open(str(tmp_path / "zeros.mp4")) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    data = bytearray((tmp_path / "zeros.mp4").read_bytes())
    for place, size in places:
        data[place : place + size] = bytes(size)
    (tmp_path / "zeros.mp4").write_bytes(data)
    return {"text.mp4": "cannot be read as a video", "empty.mp4": "cannot be read", "zeros.mp4": "frame 0 of 12 cannot"}


def test_videos_that_cannot_be_read_leave_nothing(estimator, path, write_video, tmp_path):
    for name, message in damaged(path, write_video, tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            video.write_gaze_video(
                estimator, tmp_path / name, tmp_path / "out" / "o.mp4", tmp_path / "out" / "o.csv", HeadSource(None)
            )
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not any((tmp_path / "out").glob("*"))
    assert not any((tmp_path / "out").glob(".*"))


def test_an_error_in_the_middle_leaves_the_old_files(estimator, path, tmp_path):
    out, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    out.write_text("old")
    table.write_text("old")

    answers = iter([(np.zeros((0, 4)), np.zeros(0)), "nothing"])

    def failing(pixels):
        return next(answers)

    with pytest.raises(InputError, match="returned str; boxes and scores are expected"):
        video.write_gaze_video(estimator, path, out, table, HeadSource(failing))
    assert (out.read_text(), table.read_text()) == ("old", "old")


def test_ctrl_c_in_the_middle_leaves_nothing(estimator, path, tmp_path):
    def interrupted(amount):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.write_gaze_video(
            estimator, path, tmp_path / "o.mp4", tmp_path / "o.csv", HeadSource(None), advance=interrupted
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("every", 0, "a whole number from 1"), ("smooth", 1.0, "from 0 to less than 1"), ("batch_size", 1.5, "from 1"),
     ("threshold", 2, "from 0 to 1"), ("smooth", float("nan"), "less than 1")],
)  # fmt: skip
def test_settings_out_of_range(option, value, allowed):
    with pytest.raises(InputError, match=f"{option} .* is not allowed: .*{allowed}"):
        replace(video.VideoSettings(), **{option: value})


def test_pyav_is_named_if_it_is_missing(estimator, path, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingDependency, match=r"install gazelle\[video\]"):
        video.write_gaze_video(estimator, path, tmp_path / "o.mp4", tmp_path / "o.csv")


def test_memory_is_that_of_a_batch(estimator, path, monkeypatch):
    """No more frames are decoded than a batch before the first one is given."""
    read = []
    frames = Video.frames
    monkeypatch.setattr(
        Video, "frames", lambda self, step=1: (read.append(frame) or frame for frame in frames(self, step))
    )
    settings = video.VideoSettings(batch_size=2)
    next(video.gaze_frames(estimator, path, HeadSource(boxes={"*": [BOX]}), settings))
    assert len(read) == 1 + 2
    assert isinstance(read[0], torch.Tensor)
