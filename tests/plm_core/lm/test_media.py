"""Images and videos become the chunks that the vision tower sees."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plm_core import InputError
from plm_core.lm import tiling
from plm_core.lm.media import MediaSettings, frame_chunks, image_chunks, read_video, single_chunk, video_chunks
from plm_core.testing.goldens import goldens_in
from plm_core.video import video_writer

golden = goldens_in(Path(__file__).parent / "goldens")
SMALL = MediaSettings(size=28, tokens=4)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a clip of 40 different frames, 36 x 50 pixels, in 10 seconds."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with video_writer(path, 4) as add:
        for number in range(40):
            add(noise(36, 50, number), number / 4)
    return path


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(("path", "name"), [("pil", "pil"), ("tensor", "hf")])
def test_image_chunks_are_the_originals(number, path, name):
    case = golden("tiling_and_pixels")
    setting = case.config["cases"][number]
    own = {"size": setting["tile"], "max_tiles": setting["max_num_tiles"], "mode": setting["mode"], "path": path}
    chunks = image_chunks(case.inputs[f"image{number}"], MediaSettings(**own))
    torch.testing.assert_close(chunks, case.outputs[f"{name}{number}"], atol=1e-6, rtol=0)


def test_one_image_of_several_is_its_thumbnail():
    image = Image.fromarray(noise(40, 90))
    chunk = single_chunk(image, SMALL)
    assert chunk.shape == (1, 3, 28, 28)
    assert torch.equal(chunk, image_chunks(image, SMALL)[:1])
    assert torch.equal(chunk, image_chunks(image, dataclasses.replace(SMALL, mode="vanilla")))


def test_a_budget_cuts_an_image_by_what_it_holds():
    pixels = noise(40, 90)
    assert len(image_chunks(pixels, SMALL)) == 37  # as the original cuts it
    budget = dataclasses.replace(SMALL, max_tokens=20)
    chunks = image_chunks(pixels, budget)
    assert tiling.budget_grid(90, 40, 28, 4, 20, 36) == (3, 1)
    assert torch.equal(chunks, tiling.normalise(tiling.cut(pixels, 28, (3, 1), "pil")))
    assert len(image_chunks(pixels, dataclasses.replace(budget, max_tokens=400))) == 9  # 4 x 2 hold every pixel
    assert len(image_chunks(pixels, dataclasses.replace(budget, max_tokens=400, max_tiles=2))) == 3
    assert len(image_chunks(pixels, dataclasses.replace(budget, max_tokens=400, mode="vanilla"))) == 1
    assert len(image_chunks(noise(1, 1), budget)) == 1


@given(height=st.integers(1, 90), width=st.integers(1, 90), tokens=st.integers(1, 9), budget=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_no_image_takes_more_than_its_budget(height, width, tokens, budget):
    own = MediaSettings(size=8, tokens=tokens, max_tokens=max(budget, tokens))
    chunks = image_chunks(np.zeros((height, width, 3), np.uint8), own)
    assert tokens * len(chunks) <= own.max_tokens
    assert chunks.shape[1:] == (3, 8, 8)


def test_own_normalisation_reaches_images_and_frames():
    own = MediaSettings(size=8, mean=(0.5, 0.25, 0), std=(0.5, 0.5, 0.25))
    white = np.full((1, 9, 9, 3), 255, np.uint8)
    for chunks in (image_chunks(white[0], own), single_chunk(white[0], own), frame_chunks(white, own)):
        assert chunks[-1, :, 0, 0].tolist() == [1, 1.5, 4]


# --- videos -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({}, "meta"),
        ({"path": "tensor"}, "hf"),
        ({"frame_path": "float", "path": "tensor"}, "meta"),
        ({"frame_path": "pil"}, "pil"),
        ({"frame_path": "tensor"}, "hf"),
    ],
)
def test_frames_are_the_originals(own, name):
    case = golden("tiling_and_pixels")
    pixels = case.inputs["video"].permute(0, 2, 3, 1)
    chunks = frame_chunks(pixels, dataclasses.replace(SMALL, **own))
    torch.testing.assert_close(chunks, case.outputs[f"video_{name}"], atol=1e-6, rtol=0)
    assert torch.equal(chunks, frame_chunks(pixels.numpy(), dataclasses.replace(SMALL, **own)))


@pytest.mark.parametrize("frame_path", ["pil", "tensor", "float"])
def test_a_video_read_as_chunks_is_one_read_and_then_resized(clip, frame_path):
    own = dataclasses.replace(SMALL, max_frames=6, frame_path=frame_path)
    frames = read_video(clip, own, start=1.5, end=9)
    chunks, times = video_chunks(clip, own, start=1.5, end=9)
    assert frames.pixels.shape == (6, 36, 50, 3)
    assert torch.equal(chunks, frame_chunks(frames.pixels, own))
    assert times == frames.times
    assert times.seconds[0] == 1.5
    assert times.seconds[-1] <= 9


def test_frames_are_within_the_number_and_the_budget(clip):
    assert len(read_video(clip, MediaSettings()).indices) == 32
    assert len(read_video(clip, MediaSettings(max_frames=5)).indices) == 5
    assert len(read_video(clip, MediaSettings(max_tokens=256 * 4 - 1)).indices) == 3
    assert len(read_video(clip, MediaSettings(max_frames=2, max_tokens=256 * 4)).indices) == 2
    assert read_video(clip, MediaSettings(sampling_fps=1, max_frames=10)).indices == list(range(0, 40, 4))
    assert read_video(clip, MediaSettings(sampling_fps=2, max_frames=20)).indices == list(range(0, 40, 2))


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "parts"),
    [
        ({"size": 0}, ("size 0", "whole number from 1")),
        ({"tokens": 2.0}, ("tokens 2.0",)),
        ({"max_tiles": 0}, ("max_tiles 0",)),
        ({"max_frames": -1}, ("max_frames -1",)),
        ({"mode": "tiles"}, ("mode 'tiles'", "'thumb+tile' and 'vanilla'")),
        ({"path": "float"}, ("path 'float'", "'pil' and 'tensor'")),
        ({"frame_path": "cv"}, ("frame_path 'cv'", "'pil', 'tensor' and 'float'")),
        ({"max_tokens": 255}, ("max_tokens 255", "256")),
        ({"max_tokens": 300.5}, ("max_tokens 300.5",)),
        ({"sampling_fps": 0}, ("sampling_fps 0", "from 1")),
        ({"sampling_fps": "1"}, ("sampling_fps '1'",)),
        ({"mean": (0.5, 0.5)}, ("mean (0.5, 0.5)", "three numbers")),
        ({"std": (0.5, 0.5, 0)}, ("std (0.5, 0.5, 0)", "above 0")),
    ],
)
def test_bad_settings_are_one_clear_line(own, parts, one_line):
    with one_line(InputError, *parts):
        MediaSettings(**own)


def test_what_is_no_image_or_no_frames_is_one_clear_line(clip, one_line):
    with one_line(InputError, "image is uint8 [9, 9]", "uint8 [height, width, 3]"):
        image_chunks(np.zeros((9, 9), np.uint8), SMALL)
    with one_line(InputError, "image is list"):
        single_chunk([], SMALL)
    with one_line(InputError, "uint8 [9, 9, 3]", "[frames, height, width, 3]"):
        frame_chunks(np.zeros((9, 9, 3), np.uint8), SMALL)
    with one_line(InputError, "start 60", "clip.mp4", "10.00 s"):
        video_chunks(clip, SMALL, start=60)


def test_a_damaged_video_is_named(clip, tmp_path, one_line):
    damaged = tmp_path / "damaged.mp4"
    contents = bytearray(clip.read_bytes())
    middle = len(contents) // 2
    contents[middle : middle + 4000] = bytes(4000)
    damaged.write_bytes(contents)
    with one_line(InputError, "damaged.mp4", "is damaged"):
        video_chunks(damaged, SMALL)
