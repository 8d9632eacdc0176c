"""The kind of data in a source is found from the names of its files, and other data is refused in one line."""

import pytest

from plm_core.datasets import KINDS, check_kind, kind_of
from plm_core.datasets.conversations import find_conversations
from plm_core.errors import InputError, UnknownName

TREES = {
    "images": ["cat/1.png", "dog/deep/2.JPG", "dog/notes.txt"],
    "images in splits": ["train/cat/1.png", "val/cat/2.png", "masks/1.png"],
    "images, a training split alone": ["train/cat/1.png", "train/dog/1.png"],
    "images saved by Hugging Face's library": ["dataset_dict.json", "train/data.arrow"],
    "images with a hidden video": ["cat/.a.mp4", "cat/1.png", ".hidden/b.mp4"],
    "videos": ["run/1.mp4", "walk/2.AVI", "walk/2.txt"],
    "videos with thumbnails": ["run/1.mp4", "run/2.mpg", "run/1.jpg"],
    "videos in splits": ["train/run/1.webm", "valid/run/2.webm"],
    "captions": ["captions.jsonl", "images/1.png"],
    "captions in splits": ["train/captions.jsonl", "train/a/1.png", "val/captions.jsonl", "val/a/1.png"],
    "captions, a file for each split": ["train.jsonl", "val.jsonl", "images/1.png"],
    "captions in shards": ["000.tar", "001.tar"],
    "captions in shards of splits": ["train/000.tar", "val/000.tar"],
    "images beside an archive": ["cat/1.png", "photos.tar", "rows.jsonl"],
    "conversations in chunks": ["a.chunk.0.jsonl", "a.chunk.1.jsonl", "1.png"],
    "coco": ["images/1.jpg", "instances.json"],
    "coco in splits": ["train/images/1.jpg", "train/instances.json", "val/images/2.jpg", "val/instances.json"],
    "gazefollow": ["train_annotations_release.txt", "test_annotations_release.txt", "train/0/1.jpg", "test2/0/1.jpg"],
    "gazefollow, a test split alone": ["test_annotations_release.txt", "test2/0/1.jpg"],
    "vat": ["annotations/train/show/clip/s00.txt", "images/show/clip/0001.jpg"],
    "unknown: annotations without images": ["annotations/train/show/clip/s00.txt"],
    "model": ["config.json", "model.safetensors", "README.md"],
    "empty": [],
    "empty, with folders": ["train/cat/.keep", ".git/config"],
    "unknown: no class folders": ["1.png", "2.png"],
    "unknown": ["cat/1.txt"],
    "unknown: half a model": ["config.json"],
}


def tree(root, files):
    root.mkdir(exist_ok=True)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize("name", TREES)
def test_kinds_of_folders(name, tmp_path):
    expected = name.replace(",", " ").replace(":", " ").split()[0]
    assert kind_of(tree(tmp_path, TREES[name])) == expected
    assert expected in KINDS


def test_kinds_of_other_sources(tmp_path):
    assert kind_of("hf:somebody/flowers") == "images"
    tree(tmp_path, ["x.npz", "x.csv", "x.jsonl", "x.tar"])
    assert kind_of(tmp_path / "x.jsonl") == kind_of(tmp_path / "x.tar") == "captions"
    assert (kind_of(tmp_path / "x.npz"), kind_of(str(tmp_path / "x.csv"))) == ("images", "unknown")
    assert kind_of(tree(tmp_path, ["sets.yaml"]) / "sets.yaml") == "conversations"
    with pytest.raises(InputError, match=r"data '.*none' does not exist; a folder, an \.npz file or hf:name"):
        kind_of(tmp_path / "none")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ('{"image": "1.png", "conversations": []}', "conversations"),
        ('\n \n{"image": "1.png", "text": "a cat"}\nno JSON', "conversations"),
        ('{"image": "1.png", "conversations": [', "conversations"),
        ('{"image": "1.png", "caption": "a cat"}', "captions"),
        ('{"image": "1.png", "caption": "a cat", "text": "?"}', "captions"),
        ("[]", "captions"),
        ("", "captions"),
    ],
)
def test_the_first_row_tells_conversations_from_captions(tmp_path, row, kind):
    (tmp_path / "train.jsonl").write_text(row)
    (tmp_path / "validation.jsonl").touch()
    assert kind_of(tmp_path) == kind_of(tmp_path / "train.jsonl") == kind


def test_the_files_of_conversations(tmp_path):
    row = '{"text": "a cat"}\n'
    for name in ("train.jsonl", "val.jsonl", "rows.jsonl", "b/chunk.10.jsonl", "b/chunk.9.jsonl", "sets.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(row)
    assert find_conversations(tmp_path) == ([tmp_path / "train.jsonl"], tmp_path / "val.jsonl")
    assert find_conversations(tmp_path / "b") == ([tmp_path / "b/chunk.9.jsonl", tmp_path / "b/chunk.10.jsonl"], None)
    assert find_conversations(tmp_path / "rows.jsonl") == ([tmp_path / "rows.jsonl"], None)
    held_out = tmp_path / "validation.jsonl"
    held_out.touch()
    assert find_conversations(tmp_path / "rows.jsonl") == ([tmp_path / "rows.jsonl"], held_out)
    assert find_conversations(tmp_path / "sets.yml") == ([tmp_path / "sets.yml"], held_out)
    held_out.write_text(row)
    assert find_conversations(held_out) == ([held_out], None)
    (tmp_path / "b" / "validation.jsonl").touch()
    assert find_conversations(tmp_path / "b")[1] == tmp_path / "b/validation.jsonl"


USER = "recipe 'finetune'"


@pytest.mark.parametrize(
    ("files", "expected", "said"),
    [
        (
            TREES["videos"],
            "images",
            "holds videos in class folders; recipe 'finetune' takes images in class folders (recipe 'x' takes videos)",
        ),
        (
            TREES["model"],
            ("images", "videos"),
            "holds a model; recipe 'finetune' takes images in class folders or videos",
        ),
        (
            TREES["images"],
            "captions",
            "holds images in class folders; recipe 'finetune' takes images or videos with captions",
        ),
        (TREES["images"], "coco", "holds images in class folders; recipe 'finetune' takes images and instances.json"),
        (["dataset_info.json"], "coco", "holds labelled images; recipe 'finetune' takes"),
        (
            ["a.txt", "b.TXT", "deep/c.txt", "README"],
            "images",
            "is no dataset: found 3 .txt files, 1 file without an ending; expected train/ and val/ with one folder of "
            "images per class, as in cat/1.png",
        ),
        (["1.png"], "images", "is no dataset: found 1 .png file; expected train/ and val/ with one folder of images"),
        (["cat/.keep"], "coco", "is no dataset: it holds no files; expected train/ and val/, each with images/ and"),
    ],
)
def test_other_data_is_refused(files, expected, said, tmp_path):
    with pytest.raises(InputError) as e:
        check_kind(tree(tmp_path / "pets", files), expected, USER, {"videos": "recipe 'x'"})
    assert str(e.value).startswith(f"data '{tmp_path / 'pets'}' {said}")


def test_expected_data_is_taken(tmp_path):
    assert check_kind(tree(tmp_path, TREES["videos"]), ["images", "videos"], USER) == "videos"
    with pytest.raises(InputError, match=r"x\.csv' is no dataset: it is a \.csv file; expected"):
        check_kind(tree(tmp_path / "deep", ["x.csv"]) / "x.csv", "images", USER)
    with pytest.raises(UnknownName, match="no kind of data 'image'; did you mean 'images'"):
        check_kind(tmp_path, "image", USER)
