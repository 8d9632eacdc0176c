"""Clips hold the requested frames, compared with all frames decoded one after the other."""

import gc
import random
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader

import hiera
from hiera.configs import MICRO_MOTIONS
from plm_core import InputError, MissingDependency, shapes
from plm_core.datasets import load_dataset
from plm_core.hookspecs import Input
from plm_core.video import (
    ClipSettings,
    Video,
    VideoFolder,
    classify,
    input_of,
    open_clips,
    per_clip,
    read_clip,
    views,
)
from plm_core.video import file as video_file
from plm_core.video.windows import read_windows, window_starts

LOSSLESS = {"codec": "libx264rgb", "pixels": "rgb24", "options": {"crf": "0", "preset": "ultrafast"}}
LOSSY = {"codec": "libx264", "pixels": "yuv420p", "options": {"preset": "superfast", "b-adapt": "0"}}


def write(path, frames, codec="libx264rgb", pixels="rgb24", options=None, gop=8, b_frames=0, times=None, **extra):
    """Write uint8 [T, H, W, 3] with PyAV; ``times`` are in milliseconds."""
    with av.open(str(path), "w", format=extra.get("format"), options=extra.get("container", {})) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.options = options or {}
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        if "rotation" in extra:
            stream.set_display_rotation(extra["rotation"])
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def sequential(path):
    """Return every frame that can be decoded, one after the other."""
    pictures = []
    with av.open(str(path)) as file:
        for packet in file.demux(video=0):
            try:
                pictures += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.InvalidDataError:
                break
    return torch.from_numpy(np.stack(pictures))


@pytest.fixture(scope="module")
def clip():
    """Return 60 frames that all differ from each other in the top left corner."""
    frames = shapes.Clips("heldout", size=32, frames=60, count=1, seed=0)[0].frames.copy()
    frames = np.concatenate([frames, frames[:, :, :16]], 2)  # 32 x 48
    frames[:, :4, :4] = (np.arange(60) * 4).reshape(-1, 1, 1, 1)
    return frames


@pytest.fixture(scope="module")
def mp4(clip, tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "clip.mp4", clip, **LOSSLESS)


# --- the right frames -------------------------------------------------------------------------------------------


def test_a_clip_is_every_fourth_frame(mp4, clip):
    read = read_clip(mp4, frames=6, stride=4, start=3)
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.from_numpy(clip[3:27:4]))
    # The clip is from the middle: it spans 21 of the 60 frames, so 19 come before it.
    assert torch.equal(read_clip(mp4, 3, 10), torch.from_numpy(clip[[19, 29, 39]]))
    assert torch.equal(read_clip(str(mp4), 60, 1), torch.from_numpy(clip))


FORMATS = {
    "mp4 with B-frames": ("b.mp4", {**LOSSY, "b_frames": 2}),
    "mp4 with two key frames": ("k.mp4", {**LOSSY, "gop": 30, "b_frames": 3}),
    "key frames only": ("i.mkv", {"codec": "ffv1", "pixels": "bgr0", "gop": 1}),
    "lossless mkv": ("l.mkv", {"codec": "ffv1", "pixels": "bgr0"}),
    "varying frame rate": ("v.mkv", {**LOSSY, "times": np.cumsum(np.random.default_rng(0).integers(5, 300, 60))}),
    "webm": ("w.webm", {"codec": "libvpx-vp9", "pixels": "yuv420p", "options": {"cpu-used": "8"}}),
    "avi": ("a.avi", {"codec": "mpeg4", "pixels": "yuv420p", "b_frames": 2}),
    "transport stream": ("t.ts", {**LOSSY, "b_frames": 2}),
    "raw stream without times": ("r.h264", {**LOSSY, "b_frames": 2, "format": "h264"}),
    "a name like a protocol": ("a:b?%03d.mp4", LOSSLESS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_of_decoding_in_order(name, clip, tmp_path, monkeypatch):
    path = tmp_path / FORMATS[name][0]
    options = dict(FORMATS[name][1])
    write(
        tmp_path / "plain",
        clip,
        **{"format": {".ts": "mpegts", ".mkv": "matroska"}.get(path.suffix, path.suffix[1:]), **options},
    )
    (tmp_path / "plain").rename(path)
    with path.open("rb") as file:  # opened as a file object, because FFmpeg gives this name another meaning
        expected = torch.from_numpy(np.stack([f.to_ndarray(format="rgb24") for f in av.open(file).decode(video=0)]))
    if options.get("b_frames"):
        with path.open("rb") as file:
            times = [p.pts for p in av.open(file).demux(video=0) if p.size]
        assert not all(times) or times != sorted(times)  # some frames are stored in another order
    read = Video(path)
    assert len(read) == len(expected) == 60
    assert torch.equal(torch.stack(list(read.frames())), expected)
    assert torch.equal(torch.stack(list(read.frames(7))), expected[::7])
    for spared in (0, video_file.SPARED):  # with and without jumps
        monkeypatch.setattr(video_file, "SPARED", spared)
        for indices in ([0], [59], [57, 13, 13, 40, 41], list(range(2, 60, 7))):
            assert torch.equal(read.read(indices), expected[indices])


def test_the_contents_of_a_file_are_read_like_the_file(mp4, clip):
    video = Video(mp4.read_bytes())
    assert len(video) == 60
    assert torch.equal(video.read([57, 3, 30]), torch.from_numpy(clip[[57, 3, 30]]))
    with pytest.raises(InputError, match="must be one or more of the frames 0 to 59 of the video"):
        video.read([60])
    with pytest.raises(InputError, match="the video cannot be read as a video: Invalid data"):
        Video(b"hello world\n" * 99)


def test_hidden_frames_do_not_count(clip, tmp_path):
    """VP8 has frames that only serve as references for others and are marked as hidden by a bit."""
    path = write(tmp_path / "clip.webm", clip, "libvpx", "yuv420p", {"cpu-used": "8", "deadline": "realtime"}, gop=20)
    with av.open(str(path)) as file:
        places = [p.pos for p in file.demux(video=0) if p.size]
        data = bytearray(path.read_bytes())
        first = data.index(bytes(next(av.open(str(path)).demux(video=0)))) - places[0]
    data[places[30] + first] &= ~0x10
    path.write_bytes(data)
    expected = sequential(path)
    assert len(expected) == 59
    assert torch.equal(read_clip(path, 59, 1), expected)


def test_only_what_is_needed_is_decoded_and_converted(mp4, clip, monkeypatch):
    decoded, converted = [], []
    monkeypatch.setattr(video_file, "_decoded", spy(video_file._decoded, decoded))
    picture = video_file._picture
    monkeypatch.setattr(video_file, "_picture", lambda *frame: (converted.append(0), picture(*frame))[1])
    read = Video(mp4)
    assert decoded == []  # the length is known without decoding
    assert torch.equal(read.read([2, 50]), torch.from_numpy(clip[[2, 50]]))
    assert len(converted) == 2
    assert len(decoded) == 3 + 3  # 0 to 2; the key frame 48 to 50


def spy(function, times):
    def generator(*args):
        for frame in function(*args):
            times.append(frame.pts)
            yield frame

    return generator


def read_while_decoders_log(path):
    av.logging.set_level(av.logging.DEBUG)
    video = Video(path)
    for i in range(300):
        video.read([i % 50])


def test_decoders_that_log_do_not_stop_the_reading(clip, tmp_path, forked):
    """A frame in the middle is read, so that the decoder's threads are still at work when the file is closed."""
    path = write(tmp_path / "clip.mp4", clip, **LOSSY)
    gc.collect()  # a decoder that another test has left cannot be freed in a fork, which has none of its threads
    process = forked(read_while_decoders_log, path)
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("degrees", [-90, 90, 180])
def test_rotations_are_applied(degrees, clip, tmp_path):
    path = write(tmp_path / "turned.mp4", clip[:4], **LOSSLESS, rotation=degrees)
    read = read_clip(path, 4, 1)
    expected = [np.asarray(Image.fromarray(f).rotate(degrees, expand=True)) for f in clip[:4]]  # counterclockwise
    assert torch.equal(read, torch.from_numpy(np.stack(expected)))


def test_short_videos_can_repeat_the_last_frame(clip, tmp_path):
    path = write(tmp_path / "short.mp4", clip[:10], **LOSSLESS)
    assert torch.equal(read_clip(path, 4, 4, pad="last"), torch.from_numpy(clip[[0, 4, 8, 9]]))
    with pytest.raises(InputError, match=r"short.mp4 has 10 frames that can be decoded; .* need 13"):
        read_clip(path, 4, 4)


@pytest.mark.parametrize("name", ["lossless mkv", "varying frame rate", "raw stream without times"])
def test_the_times_of_frames(name, clip, tmp_path):
    file, options = FORMATS[name]
    video = Video(write(tmp_path / file, clip, **options))
    times = np.arange(60) / 25
    if "times" in options:
        times = (options["times"] - options["times"][0]) / 1000
    assert [video.seconds(i) for i in range(60)] == pytest.approx(times, abs=1e-3)
    assert video.seconds(60) == pytest.approx(times[-1] + 1 / video.rate, abs=1e-3)
    assert video.rate == pytest.approx(25 if "times" not in options else 59 / times[-1], rel=1e-3)


# --- windows ----------------------------------------------------------------------------------------------------


def test_windows_follow_one_another_and_end_with_the_video():
    assert window_starts(16, 8, 1) == [0, 8]
    assert window_starts(20, 8, 1) == [0, 8, 12]  # the last one is whole
    assert window_starts(64, 16, 4) == [0]
    assert window_starts(61, 16, 4) == [0]  # frames 0, 4, ... 60
    assert window_starts(66, 16, 4) == [0, 5]
    assert window_starts(3, 8, 1) == [0]
    with pytest.raises(InputError, match="stride 0 is not allowed"):
        window_starts(3, 8, 0)


def test_windows_are_the_clips_that_evaluation_crops_at_the_centre(mp4, clip):
    spec = Input(size=(3, 24, 24), frames=4, stride=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop_pct=0.75)
    x = read_windows(Video(mp4), [2, 50, 55], spec)
    assert x.shape == (3, 3, 4, 24, 24)
    for part, numbers in zip(x, ([2, 5, 8, 11], [50, 53, 56, 59], [55, 58, 59, 59]), strict=True):
        assert torch.equal(part[None], views(clip[numbers], spec, clips=1, crops=1, stride=1))


# --- bad files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_truncated_files_have_the_frames_that_are_left(suffix, share, clip, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, clip.shape, dtype=np.uint8)  # packets of one size
    codec = {"codec": "mpeg4", "pixels": "yuv420p"} if suffix == "avi" else LOSSY
    whole = write(
        tmp_path / f"whole.{suffix}", noise, **codec, container={"movflags": "faststart"} if suffix == "mp4" else {}
    )
    cut = tmp_path / f"cut.{suffix}"
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    left = len(Video(cut))
    with av.open(str(whole)) as file:
        assert left == sum(p.pos + p.size <= cut.stat().st_size for p in file.demux(video=0) if p.size)
    assert 1 < left < 59
    expected = sequential(whole)
    assert torch.equal(read_clip(cut, left, 1), expected[:left])
    with pytest.raises(InputError, match=f"cut.{suffix} has {left} frames that can be decoded; 60 frames"):
        read_clip(cut, 60, 1)


def test_damage_in_the_middle_is_named(clip, tmp_path):
    path = write(tmp_path / "whole.mp4", clip, **LOSSLESS)
    with av.open(str(path)) as file:
        packets = [(p.pts, p.pos, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for _, pos, size in packets[16:24]:  # a whole group of pictures
        data[pos : pos + size] = bytes(size)
    path.write_bytes(data)
    assert torch.equal(read_clip(path, 8, 1, start=30), torch.from_numpy(clip[30:38]))
    with pytest.raises(InputError, match=r"whole.mp4 is damaged: frame 16 of 60 cannot be decoded"):
        read_clip(path, 16, 1, start=10)
    frames = Video(path).frames()
    assert torch.equal(torch.stack([next(frames) for _ in range(16)]), torch.from_numpy(clip[:16]))
    with pytest.raises(InputError, match=r"whole.mp4 is damaged: frame 16 of 60 cannot be decoded"):
        next(frames)


def test_a_size_that_changes_is_named_with_the_frame(clip, tmp_path):
    """Two raw streams of H.264 one after the other are one, whose frames change their size."""
    parts = [
        write(tmp_path / f"{i}.h264", frames, **LOSSY, format="h264")
        for i, frames in enumerate([clip, clip[:, :, :32]])
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = Video(path).frames()
    assert len([next(frames) for _ in range(60)]) == 60
    with pytest.raises(InputError, match=r"both.h264 has frames of several sizes: 48 x 32 pixels, and 32 x 32 from"):
        next(frames)


def audio_only(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "is not a file"),
        (lambda p: p.mkdir(), "is not a file"),
        (lambda p: p.write_bytes(b""), "cannot be read as a video: Invalid data"),
        (lambda p: p.write_bytes(b"hello world\n" * 99), "cannot be read as a video: Invalid data"),
        (lambda p: p.write_bytes(random.Random(0).randbytes(9999)), "cannot be read as a video: Invalid data"),
        (audio_only, "has no video stream"),
    ],
)
def test_files_that_are_no_videos_are_named(make, said, tmp_path):
    path = tmp_path / "bad.mp4"
    make(path)
    with pytest.raises(InputError) as e:
        read_clip(path)
    assert said in str(e.value)
    assert "bad.mp4" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_video_without_frames_is_named(clip, tmp_path):
    path = write(tmp_path / "none.mkv", clip, "ffv1", "bgr0")
    with av.open(str(path)) as file:
        first = next(p.pos for p in file.demux(video=0))
    path.write_bytes(path.read_bytes()[:first])
    with pytest.raises(InputError, match=r"none.mkv (has no frames|cannot be read)"):
        read_clip(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 0}, "frames 0 is not allowed: a whole number from 1 is"),
        ({"frames": 2.5}, "frames 2.5 is not allowed"),
        ({"stride": 0}, "stride 0 is not allowed"),
        ({"stride": -1}, "stride -1"),
        ({"start": 60}, "start 60 is outside"),
        ({"start": -1}, "start -1 is outside"),
        ({"pad": "first"}, "pad 'first' is not allowed: 'last' and None are"),
    ],
)
def test_bad_arguments_are_named(options, said, mp4):
    with pytest.raises(InputError) as e:
        read_clip(mp4, **{"frames": 4, **options})
    assert said in str(e.value)


@pytest.mark.parametrize("indices", [[], [-1], [60]])
def test_missing_frames_are_named(indices, mp4):
    with pytest.raises(InputError, match=r"must be one or more of the frames 0 to 59 of .*clip.mp4"):
        Video(mp4).read(indices)


def test_without_pyav_the_extra_is_named(mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"install plm-core\[video\]"):
        read_clip(mp4)


# --- evaluation -------------------------------------------------------------------------------------------------

TINY = {
    **MICRO_MOTIONS,
    "input_size": (4, 32, 32),
    "embed_dim": 8,
    "stages": (1, 1, 1),
    "sep_pos_embed": False,
    "num_classes": 3,
    "head_init_scale": 20.0,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return hiera.Hiera(**TINY).eval()


def test_views_are_clips_in_time_and_crops_in_space(mp4, clip, model):
    """Frames of 32 x 48 are not resized. The three crops are 32 wide and begin at 0, 8 and 16."""
    inputs = views(mp4, model, clips=5, crops=3, stride=4)
    assert inputs.shape == (15, 3, 4, 32, 32)
    for i, start in enumerate([0, 12, 24, 35, 47]):  # 47 = 60 - 13 is the last possible start
        for j, left in enumerate([0, 8, 16]):
            pixels = clip[start : start + 13 : 4, :, left : left + 32].transpose(3, 0, 1, 2) / 255
            expected = torch.from_numpy((pixels - 0.45) / 0.225).float()
            torch.testing.assert_close(inputs[3 * i + j], expected)
    assert torch.equal(views(clip, model), inputs)
    assert torch.equal(views(torch.from_numpy(clip), model), inputs)


@pytest.mark.parametrize(("shape", "axis"), [((40, 90), 1), ((90, 40), 0)])
def test_the_short_side_is_resized(shape, axis, model):
    rng = np.random.default_rng(0)
    frames = np.stack([np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(shape[::-1]))] * 4)
    size = (32, 72) if axis else (72, 32)
    resized = np.asarray(Image.fromarray(frames[0]).resize(size[::-1], Image.Resampling.BICUBIC))
    inputs = views(frames, Input(size=(3, 32, 32), frames=4, mean=(0,) * 3, std=(1,) * 3), 1, 3, stride=1)
    for j, offset in enumerate([0, 20, 40]):
        expected = resized[:, offset : offset + 32] if axis else resized[offset : offset + 32]
        levels = inputs[j, :, 0].permute(1, 2, 0) * 255
        torch.testing.assert_close(levels, torch.from_numpy(expected.copy()).float(), atol=1.01, rtol=0)


def test_a_single_crop_is_the_centre_of_a_larger_picture():
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    frames[:, 16:48, 16:48] = 255
    inputs = views(frames, Input(size=(3, 32, 32), frames=4, mean=(0,) * 3, std=(1,) * 3, crop_pct=0.5), 1, 1, stride=1)
    assert (inputs == 1).all()


def test_probabilities_are_averaged_over_views(mp4, model):
    with torch.inference_mode():
        expected = model(views(mp4, model)).mean(0)  # the original's class returns probabilities
    probabilities = classify(model, mp4)
    torch.testing.assert_close(probabilities, expected)
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0))
    logits = hiera.Hiera(**TINY, probabilities=False).eval()
    logits.load_state_dict(model.state_dict())
    torch.testing.assert_close(classify(logits, mp4), expected)
    assert (expected - 1 / 3).abs().max() > 0.05


def test_the_input_of_a_model_without_a_configuration():
    bare = torch.nn.Module()
    bare.input_size = (4, 32, 48)
    assert input_of(bare) == Input(size=(3, 32, 48), frames=4, mean=(0.45,) * 3, std=(0.225,) * 3, crop_pct=0.875)


def test_the_input_of_a_named_model():
    spec = input_of(timm.create_model("hiera_video_tiny_16x224", img_size=64, stages=(1, 1, 1, 1)))
    assert (spec.size, spec.frames, spec.mean, spec.std) == ((3, 64, 64), 16, (0.45,) * 3, (0.225,) * 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, v: views(v, m, clips=0), "clips 0 is not allowed"),
        (lambda m, v: views(v, m, crops=1.5), "crops 1.5 is not allowed"),
        (lambda m, v: views(v, m, stride=30), "60 frames that can be decoded; 4 frames, stride 30, start 0 need 91"),
        (lambda m, v: views(np.zeros((9, 8, 8)), m), "video is torch.float64 [9, 8, 8]; uint8"),
        (lambda m, v: views(v, hiera.Hiera(img_size=32, device="meta")), "(frames, height, width) is expected"),
        (lambda m, v: views(v, Input()), "a number of frames"),
        (lambda m, v: classify(hiera.Hiera(**TINY), v), "call model.eval()"),
        (lambda m, v: classify(hiera.Hiera(**{**TINY, "num_classes": 0}).eval(), v), "has no classes"),
    ],
)
def test_bad_views_are_named(call, said, mp4, model):
    with pytest.raises(InputError) as e:
        call(model, mp4)
    assert said in str(e.value)


# --- training ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    for name, files in {"walk": ("b.mp4", "a.MP4"), "dance": ("c.mkv",), ".cache": ("d.mp4",)}.items():
        (root / name).mkdir()
        for file in files:
            write(root / name / file, clip, **LOSSLESS)
    (root / "walk" / "notes.txt").write_text("no video")
    (root / "walk" / "._b.mp4").write_text("no video")
    return root


def test_a_folder_of_classes(folder, clip):
    data = VideoFolder(folder, frames=4, stride=2, training=False)
    assert data.classes == ["dance", "walk"]
    assert [(path.name, label) for path, label in data.samples] == [("c.mkv", 0), ("a.MP4", 1), ("b.mp4", 1)]
    frames, label = data[2]
    assert label == 1
    assert torch.equal(frames, torch.from_numpy(clip[26:33:2]))  # the middle


def test_training_clips_start_anywhere_as_torchs_generator_says(folder):
    data = VideoFolder(folder, frames=4, stride=2)

    def starts(seed):
        torch.manual_seed(seed)
        return [int(data[0][0][0, 0, 0, 0]) // 4 for _ in range(20)]  # the corner pixel counts the frames

    first = starts(0)
    assert first == starts(0)
    assert first != starts(1)
    assert min(first) >= 0
    assert max(first) <= 53
    assert len(set(first)) > 8


def test_workers_read_the_same(folder):
    data = VideoFolder(folder, frames=4, stride=2, training=False)
    batch, labels = next(iter(DataLoader(data, batch_size=3, num_workers=1)))
    assert batch.shape == (3, 4, 32, 48, 3)
    assert labels.tolist() == [0, 1, 1]
    assert torch.equal(batch[1], data[1][0])


def test_a_loader_names_the_file_that_it_cannot_read(folder, tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken.mp4 cannot be read as a video"):
        VideoFolder(tmp_path)[0]
    with pytest.raises(InputError, match=r"c.mkv has 60 frames that can be decoded; 16 frames, stride 9"):
        VideoFolder(folder, stride=9)[0]


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"root '.*nowhere' is not a folder"):
        VideoFolder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no videos in folders named after their classes"):
        VideoFolder(tmp_path)
    with pytest.raises(InputError, match="frames 0"):
        VideoFolder(tmp_path, frames=0)


def draw_from_all(image):
    numbers = [random.random(), np.random.random(), float(torch.rand(()))]
    return torch.tensor(numbers).view(3, 1, 1) + float(np.asarray(image)[0, 0, 0])


def test_all_frames_of_a_clip_share_one_draw(clip):
    augment = per_clip(draw_from_all)
    inputs = augment(clip[:5])
    assert inputs.shape == (3, 5, 1, 1)
    same = inputs[..., 0, 0] - torch.arange(5) * 4
    torch.testing.assert_close(same, same[:, :1].expand(3, 5))
    assert not torch.allclose(augment(clip[:5]), inputs)  # the next clip has its own draw


def test_a_clip_takes_one_draw_from_torchs_generator_and_nothing_else(clip):
    def after(call):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        call()
        return random.random(), np.random.random(), float(torch.rand(()))

    def fails(image):
        draw_from_all(image)
        raise OSError

    def failing():
        with pytest.raises(OSError):  # noqa: PT011
            per_clip(fails)(clip[:2])

    expected = after(lambda: torch.randint(2**32, ()))
    assert after(lambda: per_clip(draw_from_all)(clip[:3])) == expected
    assert after(failing) == expected


def test_timms_training_transform_on_clips(folder, model):
    transform = create_transform(32, is_training=True, auto_augment="rand-m9-mstd0.5", re_prob=1.0, re_mode="pixel")
    data = VideoFolder(folder, 4, 1, per_clip(transform))
    still = torch.full((4, 40, 40, 3), 90, dtype=torch.uint8)
    still[:, 10:30, 20:] = torch.tensor([200, 0, 50], dtype=torch.uint8)
    inputs = data.transform(still)
    assert all(torch.equal(inputs[:, 0], inputs[:, t]) for t in range(4))
    assert inputs[:, 0].std() > 0.1
    clips = torch.stack([data[i][0] for i in range(2)])
    assert model(clips).shape == (2, 3)


def test_a_transform_that_returns_no_tensor_is_named(clip):
    with pytest.raises(InputError, match="transform gives Image; it must end in a tensor"):
        per_clip(lambda image: image)(clip[:1])


# --- clips of a training ------------------------------------------------------------------------------------------


def test_stride_and_padding_of_a_training(folder):
    spec = Input(size=(3, 32, 32), frames=4, stride=2)
    data = load_dataset(folder)
    clips = open_clips(data, spec, ClipSettings(), lambda clip: clip, training=False)
    assert (clips.frames, clips.stride, clips.pad, len(clips)) == (4, 2, "last", 3)
    clips = open_clips(data, spec, ClipSettings(stride=3, pad=None), lambda clip: clip, training=False)
    assert (clips.stride, clips.pad, clips.training) == (3, None, False)
    corners = clips[1][0][:, 0, 0, 0].int()  # the corner pixel counts the frames
    assert corners.diff().tolist() == [12, 12, 12]
    with pytest.raises(InputError, match="stride 0 is not allowed"):
        open_clips(data, spec, ClipSettings(stride=0), lambda clip: clip)


def test_short_videos_are_refused_before_a_training(folder):
    spec = Input(size=(3, 32, 32), frames=16, stride=4)
    lengths = [len(Video(path)) for path in load_dataset(folder).items]
    assert open_clips(load_dataset(folder), spec, ClipSettings(stride=9), lambda clip: clip)[0][0].shape[0] == 16
    with pytest.raises(
        InputError,
        match=rf"3 of 3 videos of .* have fewer than the 136 frames that 16 frames, stride 9 need: "
        rf"dance/c\.mkv \({lengths[0]}\), .*\(pad='last' repeats the last frame\)",
    ):
        open_clips(load_dataset(folder), spec, ClipSettings(stride=9, pad=None), lambda clip: clip)
    assert len(open_clips(load_dataset(folder), spec, ClipSettings(stride=1, pad=None), lambda clip: clip)) == 3


def test_frames_of_several_sizes_are_refused(folder, monkeypatch):
    pictures = {0: torch.zeros(4, 6, 3), 1: torch.zeros(8, 6, 3)}
    monkeypatch.setattr(Video, "_pictures", lambda self, runs: iter(pictures.items()))
    file = next(folder.rglob("c.mkv"))
    with pytest.raises(InputError, match=r"c\.mkv has frames of 2 sizes: \(4, 6, 3\), \(8, 6, 3\)"):
        Video(file).read([0, 1])
