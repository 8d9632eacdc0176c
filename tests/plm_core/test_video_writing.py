"""Videos that are written frame by frame are read again as they were."""

import itertools
import sys

import numpy as np
import pytest

from plm_core.errors import FileError, MissingDependency
from plm_core.video import Video, video_writer


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (64, 48)])
def test_sides_of_an_odd_length_get_another_row(size, tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with video_writer(tmp_path / "odd.part", 24) as add:
        for i in range(3):
            add(frame, i / 24)
    read = Video(tmp_path / "odd.part").read([0, 1, 2])
    assert read.shape[1:3] == (size[0] + size[0] % 2, size[1] + size[1] % 2)


def test_colours_and_uneven_times_are_kept(tmp_path):
    colours = np.array([[[230, 159, 0], [86, 180, 233]], [[0, 158, 115], [213, 94, 0]]], np.uint8)
    frame = colours.repeat(32, 0).repeat(32, 1)
    times = [0, 0.04, 0.2, 0.21, 0.5]
    with video_writer(tmp_path / "out.mp4", 29.97) as add:
        for time in times:
            add(frame, time)
    written = Video(tmp_path / "out.mp4")
    assert [written.seconds(i) for i in range(5)] == pytest.approx(times, abs=1e-4)
    read = written.read([4])[0].numpy().astype(int)
    for row, column in itertools.product((16, 48), repeat=2):
        assert abs(read[row, column] - frame[row, column]).max() <= 12


def test_a_full_disk_is_said(full_disk_after, tmp_path):
    def write():
        noise = np.random.default_rng(0).integers(0, 256, (60, 128, 128, 3), np.uint8)
        with video_writer(tmp_path / "o.mp4", 25) as add:
            for i, frame in enumerate(noise):
                add(frame, i / 25)

    with full_disk_after(20_000), pytest.raises(FileError, match="cannot write a video"):
        write()


def test_pyav_is_named_if_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"install plm-core\[video\]"), video_writer(tmp_path / "o.mp4", 25):
        pass


def test_a_pyav_without_an_encoder_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("av.codecs_available", {"mpeg4"})
    with pytest.raises(MissingDependency, match="no encoder libx264"), video_writer(tmp_path / "o.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())
