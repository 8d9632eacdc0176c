"""Videos split at their cuts, and put together as clips with key frames."""

import numpy as np
import pytest
import torch

from plm_core import InputError, shapes
from plm_core.lm.engine import Scene, SceneSettings, split
from plm_core.lm.engine.scenes import find_cuts
from plm_core.lm.video import read_frames

RATE = 25
EACH = SceneSettings(seconds=None)


def clips(count, frames=25, background="clutter", start=0, size=64):
    """Clips of the shapes world, one after the other."""
    world = shapes.Clips("train", size=size, frames=frames, count=start + count, background=background)
    return np.concatenate([world[start + number].frames for number in range(count)])


def levels(*values, size=(16, 24)):
    """Frames of one level each."""
    return np.stack([np.full((*size, 3), value, np.uint8) for value in values])


@pytest.fixture(scope="module")
def film(write_video, tmp_path_factory):
    """A video of ten clips, with a cut after every second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, clips(10))
    return path


# --- cuts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", ["plain", "gradient", "clutter"])
def test_the_cuts_between_clips_are_found_and_no_others(write_video, tmp_path, background):
    write_video(tmp_path / "a.mp4", clips(12, background=background, start=20))
    scenes = split(tmp_path / "a.mp4", EACH)
    assert [scene.first for scene in scenes] == list(range(0, 300, 25))
    assert [scene.last for scene in scenes] == list(range(24, 300, 25))


def test_motion_without_a_cut_is_one_scene(write_video, tmp_path):
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 255, (64, 400, 3), dtype=np.uint8)
    pan = np.stack([wall[:, 3 * number : 3 * number + 64] for number in range(100)])
    write_video(tmp_path / "pan.mp4", pan)
    assert len(split(tmp_path / "pan.mp4", EACH)) == 1


def test_flashes_and_slow_fades_are_no_cuts(write_video, tmp_path):
    frames = clips(1, frames=75, background="gradient")
    frames[30] = 255
    write_video(tmp_path / "flash.mp4", frames)
    assert len(split(tmp_path / "flash.mp4", EACH)) == 1
    write_video(tmp_path / "fade.mp4", levels(*np.linspace(0, 255, 75)))
    assert len(split(tmp_path / "fade.mp4", EACH)) == 1


def test_cuts_keep_apart(write_video, tmp_path):
    """Of two cuts within half a second the clearer one counts, and none lies at an end."""
    frames = np.concatenate([levels(*[0] * 20), levels(*[90] * 5), levels(*[250] * 30), levels(*[0] * 4)])
    write_video(tmp_path / "a.mp4", frames)
    assert [scene.first for scene in split(tmp_path / "a.mp4", EACH)] == [0, 25]
    close = SceneSettings(seconds=None, shortest=0.1)
    assert [scene.first for scene in split(tmp_path / "a.mp4", close)] == [0, 20, 25, 55]


def test_a_cut_stands_out_of_what_is_around_it():
    changes = np.full(60, 0.06, np.float32)
    changes[[15, 40]] = 0.16, 0.2
    signatures = np.repeat(np.array([[0.0], [0.4], [0.9]], np.float32), [15, 25, 20], axis=0)
    assert find_cuts(changes, signatures, RATE, SceneSettings()) == [40], "0.16 is less than three times 0.06"
    assert find_cuts(changes, signatures, RATE, SceneSettings(contrast=2)) == [15, 40]
    assert find_cuts(changes, signatures, RATE, SceneSettings(threshold=0.3)) == []


# --- clips -------------------------------------------------------------------------------------------------------


def test_short_scenes_are_joined_and_have_a_key_frame_each(film):
    scenes = split(film, SceneSettings(seconds=3))
    assert [(scene.first, scene.last) for scene in scenes] == [(0, 74), (75, 149), (150, 224), (225, 249)]
    assert scenes[1].cuts == (100, 125)
    for scene in scenes:
        assert [key // 25 for key in scene.keys] == list(range(scene.first // 25, scene.last // 25 + 1))
    few = split(film, SceneSettings(key_frames=2))
    assert len(few) == 1
    assert [key // 25 for key in few[0].keys] == [2, 7], "spread over the clip"


def test_long_scenes_are_cut_into_equal_parts(write_video, tmp_path):
    write_video(tmp_path / "long.mp4", levels(*[100] * 200))
    scenes = split(tmp_path / "long.mp4", SceneSettings(seconds=3, key_seconds=1))
    assert [(scene.first, scene.last) for scene in scenes] == [(0, 65), (66, 132), (133, 199)]
    assert [len(scene.keys) for scene in scenes] == [3, 3, 3]
    (whole,) = split(tmp_path / "long.mp4", SceneSettings(seconds=6, key_seconds=8))
    assert whole.last == 199, "up to one and a half of the length stays whole"
    assert whole.keys in ((99,), (100,)), "the middle one of equal frames"


def test_the_times_of_a_scene_name_its_frames(film):
    for scene in split(film, EACH):
        frames = read_frames(film, 100, 25, scene.start, scene.end)
        assert frames.indices == list(range(scene.first, scene.last + 1))


def test_a_key_frame_is_a_typical_one(write_video, tmp_path):
    frames = levels(*[0, 5, 80, 80, 80, 80, 80, 85, 90, 200])
    write_video(tmp_path / "a.mp4", frames)
    (scene,) = split(tmp_path / "a.mp4", SceneSettings(threshold=1.0))
    assert scene.keys == (4,)


def test_splitting_is_deterministic_and_decodes_once(film, monkeypatch):
    from plm_core.video import Video

    calls = []
    frames = Video.frames
    monkeypatch.setattr(Video, "frames", lambda self: calls.append("frames") or frames(self))
    monkeypatch.setattr(Video, "read", None)
    counts = []
    first = split(film, EACH, counts.append)
    assert calls == ["frames"]
    assert sum(counts) == 250
    assert split(film, EACH) == first
    assert isinstance(first[0], Scene)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 3, 200, 3), (2, 130, 66, 3), (3, 6, 2, 3)])
def test_frames_of_any_size(shape, monkeypatch, tmp_path):
    from plm_core.lm.engine.scenes import _measured

    changes, signatures = _measured(torch.zeros(shape, dtype=torch.uint8), None)
    assert changes.tolist() == [0.0] * shape[0]
    assert signatures.shape[0] == shape[0]


def test_files_that_are_no_videos(tmp_path, one_line):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with one_line(InputError, "a.mp4", "cannot be read as a video"):
        split(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 0), ("seconds", -1), ("shortest", "x"), ("key_frames", 0), ("key_frames", 1.5)]
)
def test_settings_that_are_not_allowed(name, value):
    with pytest.raises(InputError, match=f"{name} .* is not allowed"):
        SceneSettings(**{name: value})
