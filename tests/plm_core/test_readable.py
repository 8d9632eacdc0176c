"""Images and videos that cannot be read are found before long work starts: an error, or left out and listed."""

import logging

import numpy as np
import pytest
from PIL import Image

from plm_core.datasets import load_dataset, load_splits, readable
from plm_core.datasets.splits import own_splits
from plm_core.errors import InputError


def pictures(root, count=4, names="ab", kind="jpg"):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.effect_noise((64, 64), 40).point(lambda v, shade=number: v // 2 + shade).save(
                root / name / f"{i}.{kind}"
            )
    return root


def spoil(root):
    """Spoil two images: one has a header and no end, the other no header."""
    whole = (root / "a" / "1.jpg").read_bytes()
    (root / "a" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "2.jpg").write_bytes(b"")
    return root


def test_unreadable_images_are_an_error_or_left_out(tmp_path, caplog):
    dataset = load_dataset(spoil(pictures(tmp_path)))
    with pytest.raises(
        InputError,
        match=r"^2 of 8 images of '.*' cannot be read, which --skip-unreadable leaves out: "
        r"a/1\.jpg \(image file is truncated.*\), b/2\.jpg \(not an image\)$",
    ):
        readable(dataset)
    with pytest.raises(InputError, match=r"^1 of 8 images"):
        readable(dataset, decode=False)
    with caplog.at_level(logging.WARNING, "plm_core"):
        kept = readable(dataset, skip=True)
    assert [*kept.names] == ["a/0.jpg", "a/2.jpg", "a/3.jpg", "b/0.jpg", "b/1.jpg", "b/3.jpg"]
    assert kept.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert kept.items[5] == tmp_path / "b" / "3.jpg"
    assert "2 of 8 images of" in caplog.text
    assert "are left out: a/1.jpg (" in caplog.text
    whole = readable(kept)
    assert whole is kept


def test_a_dataset_of_nothing_but_unreadable_images(tmp_path):
    pictures(tmp_path, names="abc")
    for file in tmp_path.rglob("*.jpg"):
        file.write_bytes(b"nothing")
    for skip in (False, True):
        with pytest.raises(InputError, match=r"^12 of 12 images .* cannot be read: a/0.*, a/1.* and 7 more$"):
            readable(load_dataset(tmp_path), skip)


def test_pixels_beyond_the_scale_are_found_too(tmp_path):
    pictures(tmp_path, kind="tif")
    Image.fromarray(np.full((4, 4), 7.5, np.float32)).save(tmp_path / "a" / "0.tif")
    with pytest.raises(InputError, match=r"a/0\.tif \(its pixels lie between 7.5 and 7.5; floats from 0 to 1"):
        readable(load_dataset(tmp_path))


def test_splits_are_looked_at_before_a_share_is_held_out(tmp_path):
    root = spoil(pictures(tmp_path, count=6))
    assert len(load_splits(root).train) == 11, "nobody asked"
    with pytest.raises(InputError, match="2 of 12 images"):
        load_splits(root, skip_unreadable=False)
    splits = load_splits(root, skip_unreadable=True, holdout=0.2)
    assert (len(splits.train), len(splits.val)) == (8, 2)
    assert splits.note.startswith("20 % of the images (2 of 10) held out")
    pictures(root / "train")
    spoil(pictures(root / "val"))
    train, val = own_splits(root, skip_unreadable=True)
    assert (len(train), len(val)) == (8, 6)


def test_a_class_without_readable_images_is_refused(tmp_path):
    pictures(tmp_path)
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"has 1 class \(a\) in 4 images; at least 2 are needed"):
        load_splits(tmp_path, skip_unreadable=True)


def test_videos(tmp_path, write_video):
    for name in "ab":
        for i in range(2):
            write_video(tmp_path / name / f"{i}.mp4", np.zeros((4, 32, 32, 3), np.uint8))
    (tmp_path / "a" / "0.mp4").write_bytes(b"nothing")
    for decode in (True, False):
        kept = readable(load_dataset(tmp_path), skip=True, decode=decode)
        assert [*kept.names] == ["a/1.mp4", "b/0.mp4", "b/1.mp4"]
