"""Which folders are splits, classes or neither, and which files a class has: never a copy, or an error says why."""

import json
import os
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from plm_core.datasets import digest, load_dataset, load_splits
from plm_core.datasets.layout import split_word
from plm_core.errors import InputError
from plm_core.prediction.files import find_files
from plm_core.tools.folders import trained_on

CLASSES = ("ant", "bee", "cat")


def write(root, classes=CLASSES, count=2, shade=0):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (2, 2), (shade, number, i)).save(root / name / f"{i}.png")
    return root


def test_a_folder_tells_on_how_much_of_some_data_its_model_was_trained(tmp_path):
    data = load_dataset(write(tmp_path / "data", count=10))
    other = load_dataset(write(tmp_path / "other", classes=("ant", "bee", "cow"), count=10))
    kept = load_splits(tmp_path / "data", seed=3).train
    record = tmp_path / "training.json"
    assert trained_on(tmp_path, data) == 0  # no record
    for content, count in (
        ({"data_digest": digest(data), "seed": 3}, 30),
        ({"data_digest": digest(kept), "seed": 3}, 27),
        ({"data_digest": digest(kept), "seed": 4}, 0),
        ({"seed": 3}, 0),
        ([], 0),
    ):
        record.write_text(json.dumps(content))
        assert (trained_on(tmp_path, data), trained_on(tmp_path, other)) == (count, 0)
    record.write_text("{")
    assert trained_on(tmp_path, data) == 0


@pytest.mark.parametrize(
    ("train", "val", "beside"),
    [
        ("Training", "Testing", []),
        ("Train", "Test", []),
        ("TRAIN", "Val", ["test"]),
        ("train_set", "test-set", []),
        ("TrainSet", "valid", []),
        ("seg_train", "seg_test", ["seg_pred"]),
        ("seg_train/seg_train", "seg_test/seg_test", []),
        ("train2017", "val2017", []),
        ("training data", "validation data", ["unlabeled"]),
        ("train", "test", ["__MACOSX", ".git"]),
        ("train", None, ["__MACOSX", ".ipynb_checkpoints"]),
    ],
)
def test_splits_are_known_by_their_names(train, val, beside, tmp_path):
    write(tmp_path / train, shade=1)
    if val:
        write(tmp_path / val, shade=2)
    for name in beside:
        write(tmp_path / name, ["x"])
    dataset = load_dataset(tmp_path)
    assert (dataset.classes, {dataset.image(i).getpixel((0, 0))[0] for i in range(len(dataset))}) == (CLASSES, {1})
    splits = load_splits(tmp_path, holdout=0.5)
    assert splits.val.image(0).getpixel((0, 0))[0] == (2 if val else 1)


@pytest.mark.parametrize("name", ["test_tube", "trainers", "settings", "tests", "untrained", "set", "2017", "valve"])
def test_other_names_are_those_of_classes(name, tmp_path):
    assert split_word(name) is None
    assert load_dataset(write(tmp_path, [name, "cat"])).classes == tuple(sorted([name, "cat"]))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["val/ant", "val/bee", "test/ant", "test/bee"], "has the splits test and val, but none to train on; name the"),
        (["Testing/ant", "Testing/bee"], "has the splits Testing, but none to train on; .*, as in .*Testing$"),
        (["train/ant", "Training/bee", "val/ant"], "has Training and train, which may be the same split"),
        (["train/ant", "test/ant", "Test/ant"], "has Test and test, which may be the same split"),
        (
            ["train/ant", "train/bee", "extra/ant"],
            "may be classes or splits: train is .* beside it are extra; name the",
        ),
        (["test/ant", "test/bee", "car", "van"], "may be classes or splits: test is .* beside it are car, van"),
        (["train", "test"], "has no images in folders named after their classes"),
    ],
)
def test_what_may_be_a_split_or_a_class_is_refused(folders, said, tmp_path):
    write(tmp_path, folders)
    for load in (load_dataset, load_splits):
        with pytest.raises(InputError, match=said):
            load(tmp_path)


def test_hidden_files_and_what_archives_leave_are_not_seen(tmp_path):
    write(tmp_path)
    write(tmp_path / "cat", [".ipynb_checkpoints", "__MACOSX"])
    write(tmp_path, ["__MACOSX", "@eaDir"])
    (tmp_path / "cat" / "._0.png").write_bytes(b"")
    dataset = load_dataset(tmp_path)
    assert (dataset.classes, np.bincount(dataset.labels).tolist()) == (CLASSES, [2, 2, 2])


def test_links_give_no_copies(tmp_path, caplog):
    write(tmp_path)
    (tmp_path / "cat" / "all").symlink_to("..")
    (tmp_path / "cat" / "me").symlink_to(".")
    (tmp_path / "cat" / "again.png").symlink_to("0.png")
    pool = write(tmp_path.with_name(f"{tmp_path.name}-pool"), ["deep"])
    (pool / "back").symlink_to(tmp_path / "bee")
    (tmp_path / "bee" / "pool").symlink_to(pool)  # a link that leads elsewhere is followed, and from there not back
    dataset = load_dataset(tmp_path)
    assert np.bincount(dataset.labels).tolist() == [2, 4, 2]
    assert len({os.path.realpath(item) for item in dataset.items}) == 8
    assert "1 images of" in caplog.text
    assert len(find_files([tmp_path / "bee"])) == 4
    (tmp_path / "ant" / "bees").symlink_to(tmp_path / "bee")
    with pytest.raises(InputError, match=r"has 'bee/0\.png' in class 'ant' too, by a link"):
        load_dataset(tmp_path)


def test_spellings_of_one_name(tmp_path):
    composed, decomposed = (normalize(form, "café") for form in ("NFC", "NFD"))
    write(tmp_path / "train", [decomposed, "zoo"])
    write(tmp_path / "val", [composed, "zoo"])
    assert load_splits(tmp_path).train.classes == (composed, "zoo") == load_splits(tmp_path).val.classes
    write(tmp_path / "train", [composed])
    with pytest.raises(InputError, match=f"two folders '{composed}', in two Unicode spellings; merge them"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "shown"), [(b"a\nb", r"a\\nb"), (b"\x1b[31m", r"\\x1b\[31m"), (b"caf\xe9", r"caf\\udce9")]
)
def test_names_that_cannot_be_printed(name, shown, tmp_path):
    root = write(tmp_path)
    (root / os.fsdecode(name)).mkdir()
    write(root, [os.fsdecode(name)], count=0)
    assert load_dataset(root).classes == CLASSES, "an empty folder is no class"
    (root / "cat" / "0.png").rename(root / "cat" / (os.fsdecode(name) + ".png"))
    dataset = load_dataset(root)
    assert all(name.isprintable() for name in dataset.names)
    assert len(digest(dataset)) == 16
    write(root, [os.fsdecode(name)])
    with pytest.raises(InputError, match=f"a class folder '{shown}', which cannot be printed; rename it"):
        load_dataset(root)


def test_class_order_and_depth(tmp_path):
    """Classes are in the order of code points; what lies deeper belongs to the folder at the top."""
    write(tmp_path, ["Zebra", "ape", "éland", "10", "9"])
    write(tmp_path / "ape" / "young", ["small"])
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("10", "9", "Zebra", "ape", "éland")
    assert np.bincount(dataset.labels).tolist() == [2, 2, 2, 4, 2]
